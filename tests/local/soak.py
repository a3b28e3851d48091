"""Random requests to a server of its own, right and wrong, some of which hang up: what it holds must not grow.

python -m tests.local.soak --minutes 120
"""

import argparse
import asyncio
import json
import random
import sys
import time
from collections import Counter
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from aiohttp import ClientConnectionError, ClientSession, ClientTimeout
from PIL import Image

from tests.faults.resources import Growth, Sample, growth
from tests.local.conftest import VECTORS
from tests.local.test_process import Server, serving
from tests.local.test_server import BAD, INDEX, PERSON, as_url

CALLERS = 12
SAMPLE_S = 5.0
HANG_UPS = 0.05
WRONG = 0.25
FRESH = 0.5
"""Shares of the requests: that are given up, that are wrong, and that come with a picture that nobody has seen."""
MORE = "pictures_mb = 48\nrows_mb = 64\nwaiting = 24"
"""Small enough to be full soon."""
MAX_MB_PER_H = 5.0
SCHEMA = {
    "type": "object",
    "properties": {"anyone": {"type": "boolean"}, "place": {"type": "string", "enum": ["street", "shop"]}},
    "required": ["anyone", "place"],
    "additionalProperties": False,
}


class Soak:
    """What was asked, and what came of it. `strange` are the answers that should not be."""

    def __init__(self, url: str, seed: int) -> None:
        self.told: Counter[str] = Counter()
        self.strange: list[str] = []
        self._url = url
        self._random = random.Random(seed)
        self._known = [as_url(file.read_bytes()) for file in sorted((VECTORS / "images").iterdir())]

    async def call_until(self, session: ClientSession, end_s: float) -> None:
        while time.monotonic() < end_s:
            path, body, wanted = self._wrong() if self._random.random() < WRONG else self._right()
            given_up = self._random.random() < HANG_UPS
            patience = ClientTimeout(total=self._random.uniform(0, 0.5) if given_up else 300)
            sent = body if isinstance(body, bytes) else json.dumps(body).encode()
            try:
                async with session.post(f"{self._url}{path}", data=BytesIO(sent), timeout=patience) as response:
                    status, told = response.status, await response.text()
            except TimeoutError:
                self.told["given up"] += 1
                continue
            self.told[str(status)] += 1
            if status not in (wanted, 503):
                self.strange.append(f"{path} {str(body)[:200]}: {status} {told[:300]}")

    def _wrong(self) -> tuple[str, Any, int]:
        path, body, status, _words = BAD[self._random.choice(list(BAD))]
        picture = {"image_url": self._known[0]} if path == "/v1/caption" else {}
        return path, body | picture if isinstance(body, dict) else body, status

    def _right(self) -> tuple[str, Any, int]:
        chance, settings = self._random, {"max_tokens": self._random.randint(1, 40)}
        picture: dict[str, Any] = {"image_url": self._picture(), "settings": settings}
        question = {"question": self._random.choice([one["question"] for one in INDEX["query"]]) + " why" * 3}
        messages = [
            {
                "role": "user",
                "content": [
                    {"type": "image_url", "image_url": {"url": picture["image_url"]}},
                    {"type": "text", "text": PERSON},
                ],
            }
        ]
        schema = {"type": "json_schema", "json_schema": {"name": "seen", "schema": SCHEMA, "strict": True}}
        path, body = chance.choice(
            [
                ("/v1/query", picture | question),
                ("/v1/query", picture | question | {"choices": ["yes", "no"], "priority": chance.randint(0, 3)}),
                ("/v1/query", picture | question | {"choices": ["a red car", "nobody", "a van and a truck"]}),
                ("/v1/query", picture | question | {"reasoning": True}),
                ("/v1/query", picture | question | {"settings": settings | {"temperature": 0.7}}),
                ("/v1/query", question | {"settings": settings}),
                ("/v1/caption", picture | {"length": chance.choice(["short", "normal", "long"])}),
                ("/v1/detect", picture | {"object": "person", "settings": {"max_objects": chance.randint(1, 12)}}),
                ("/v1/point", picture | {"object": "person", "settings": {"max_objects": chance.randint(1, 12)}}),
                ("/v1/chat/completions", {"model": "any", "messages": messages, "max_tokens": 40}),
                ("/v1/chat/completions", {"model": "any", "messages": messages, "response_format": schema}),
            ]
        )
        return path, body, 200

    def _picture(self) -> str:
        if self._random.random() > FRESH:
            return self._random.choice(self._known)
        encoded = BytesIO()
        size = (self._random.randint(20, 500), self._random.randint(20, 500))
        Image.new("RGB", size, tuple(self._random.randbytes(3))).save(encoded, "JPEG")
        return as_url(encoded.getvalue())


async def soak(server: Server, minutes: float, seed: int) -> tuple[Soak, list[Sample]]:
    """Raises ClientConnectionError when the server is gone."""
    told, samples = Soak(server.url, seed), list[Sample]()
    began_s = time.monotonic()
    end_s = began_s + 60 * minutes
    async with ClientSession() as session, asyncio.TaskGroup() as group:
        for _ in range(CALLERS):
            group.create_task(told.call_until(session, end_s))
        while time.monotonic() < end_s:
            await asyncio.sleep(SAMPLE_S)
            samples.append(Sample.of(server.process.pid, time.monotonic() - began_s))
            if len(samples) % 60 == 0:
                print(f"{samples[-1].at_s / 60:.0f} min, {samples[-1].resident_kb / 1024:.0f} MB, {dict(told.told)}")
    return told, samples


def grown(found: Growth) -> list[str]:
    """What does."""
    return [
        told
        for is_so, told in (
            (found.resident_mb_per_h > MAX_MB_PER_H, f"memory, by {found.resident_mb_per_h:.1f} MB an hour"),
            (found.descriptors > CALLERS, f"files, by {found.descriptors}"),
            (found.threads > 0, f"threads, by {found.threads}"),
        )
        if is_so
    ]


async def run(minutes: float, seed: int) -> int:
    with TemporaryDirectory() as scratch:
        model = Path(scratch) / "model"
        model.mkdir()
        (model / "model.safetensors").symlink_to(VECTORS / "weights.safetensors")
        for name in ("config.json", "tokenizer.json"):
            (model / name).symlink_to(VECTORS / name)
        async with serving(Path(scratch), model, model_more=MORE) as server:
            await server.until("model.ready")
            server.read_on()
            told, samples = await soak(server, minutes, seed)
    found = growth(samples)
    print(f"{sum(told.told.values())} requests in {minutes:g} min: {dict(told.told)}; {len(told.strange)} strange")
    print(
        f"{samples[-1].resident_kb / 1024:.0f} MB at the end: {found.resident_mb_per_h:+.2f} MB an hour, "
        f"most {found.resident_mb:+.1f} MB, files {found.descriptors:+d}, threads {found.threads:+d}"
    )
    for line in (*told.strange[:10], *grown(found)):
        print("NOT GOOD:", line)
    return 1 if told.strange or grown(found) else 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=120)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    try:
        sys.exit(asyncio.run(run(args.minutes, args.seed)))
    except* ClientConnectionError as gone:
        sys.exit(f"the server is gone: {gone.exceptions[0]}")


if __name__ == "__main__":
    main()
