"""The model server's engine: against itself at batch 1, against asking about pictures one by one, against no server."""

import asyncio
import base64
import re
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from aiohttp import ClientSession, UnixConnector
from PIL import Image

from daemon.bench.figures import Figure, at_least, at_most
from daemon.bench.material import Material, in_a_process
from providers.local.engine import Asked, open_engine
from providers.local.moondream2.vectors import steps
from providers.local.moondream2.vectors.folder import Vectors
from providers.local.server import Service, listening
from providers.local.settings import ModelSettings, ServerSettings

VECTORS = Path(__file__).parents[2] / "tests" / "data" / "moondream2"
BATCHES = (1, 2, 4, 8, 16)
STEPS = 12
QUESTIONS = 8
REQUESTS = 200
GPU = "python -m daemon.bench.gpu, where there is one"
FULL_SIZE_BYTES = 12 * 2**30
"""In float32, with everything else."""

SMALLER = {
    "text": {"dim": 1024, "ff_dim": 4096, "n_layers": 24, "n_heads": 16, "n_kv_heads": 16, "vocab_size": 8192},
    "vision": {
        "enc_dim": 288,
        "enc_n_layers": 27,
        "enc_ff_dim": 1076,
        "enc_n_heads": 4,
        "proj_out_dim": 1024,
        "proj_inner_dim": 2048,
    },
    "region": {"dim": 1024, "inner_dim": 2048},
}
"""About 300 million weights in the decoder, which each step reads all of: too many for any cache."""


async def measure(_material: Material) -> AsyncIterator[Figure]:
    if VECTORS.exists():
        yield exactness()
    for figures in (batches, precisions, full_size):
        for figure in await asyncio.to_thread(list, figures()):
            yield figure
    if VECTORS.exists():
        yield await overhead()
    yield Figure("Moondream 2 on a GPU", 0.0, f"not measured here: {GPU}", None, True, "")


def exactness() -> Figure:
    """The worst of all comparisons, as a share of what is allowed."""
    compared = list(steps(Vectors(VECTORS)))
    worst = max(compared, key=lambda step: step.share)
    problems = sum(len(step.problems) for step in compared)
    count = sum(step.compared for step in compared)
    detail = f"{count} comparisons, {problems} differ; the worst: {worst.where}, {worst.worst:.2g}"
    return at_most("Moondream 2 in f32 against the reference's answers", worst.share, 1.0, detail, "of the tolerance")


def batches() -> Iterator[Figure]:
    """Of rows about different pictures; and of questions about the same one."""
    found = _decoding(SMALLER, "auto", BATCHES, questions=QUESTIONS)
    step_s = found["step_s"]
    for rows in BATCHES[1:]:
        speed, alone = rows / step_s[str(rows)], 1 / step_s["1"]
        detail = f"{speed:.1f} against {alone:.1f} tokens/s, decoder of 300 M weights, {found['kind']}"
        yield at_least(f"decoding {rows} rows in a batch, against 1", speed / alone, 3.0 if rows == 8 else None, detail)
    detail = f"{found['many_s'] * 1000:.0f} against {found['one_s'] * 1000:.0f} ms, {found['kind']}"
    name = f"{QUESTIONS} questions about one picture, against one question"
    yield at_most(name, found["many_s"] / found["one_s"], 1 + 0.1 * QUESTIONS, detail)


def precisions() -> Iterator[Figure]:
    """On a CPU: what is lost in exactness is told by the exam of the small model."""
    whole, *compressed = [_decoding(SMALLER, precision, (1, 8)) for precision in ("f32", "int8", "int4")]
    for found in compressed:
        for rows in ("1", "8"):
            times = whole["step_s"][rows] / found["step_s"][rows]
            detail = f"{1000 * found['step_s'][rows]:.0f} against {1000 * whole['step_s'][rows]:.0f} ms a step"
            yield at_least(f"decoding {rows} rows, {found['kind']}, against f32", times, None, detail)


def full_size() -> Iterator[Figure]:
    """The published sizes, with random weights; where there is memory for them."""
    for precision in ("auto", "int8", "int4"):
        if _available_bytes() < FULL_SIZE_BYTES:
            return
        found = _decoding({}, precision, (1,), steps=5)
        name, how = f"Moondream 2 at full size, {found['kind']}", "random weights"
        yield at_most(f"{name}: a picture of one crop", found["encode_s"], None, how, "s")
        yield at_most(f"{name}: a token, batch 1", found["step_s"]["1"], None, how, "s")
        yield at_most(f"{name}: memory", found["peak_mb"], None, "at most, a picture or two kept", "MB")


def _decoding(
    config: dict[str, Any], precision: str, batches: Sequence[int], steps: int = STEPS, questions: int = 0
) -> dict[str, Any]:
    return in_a_process(
        "daemon.bench.decoding",
        config=config,
        precision=precision,
        batches=list(batches),
        steps=steps,
        questions=questions,
        rounds=3,
    )


async def overhead() -> Figure:
    """What HTTP adds to a question about a picture that is known already."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for name, target in (
            ("weights.safetensors", "model.safetensors"),
            ("config.json",) * 2,
            ("tokenizer.json",) * 2,
        ):
            (folder / target).symlink_to(VECTORS / name)
        encoded = BytesIO()
        Image.effect_noise((378, 378), 50).save(encoded, "JPEG")
        picture = encoded.getvalue()
        settings = ServerSettings(unix_socket=folder / "socket")
        async with open_engine(ModelSettings(folder=folder, precision="f32")) as engine:
            service = Service(settings, "bench")
            service.engine = engine
            async with (
                listening(service, settings),
                ClientSession(connector=UnixConnector(str(folder / "socket"))) as session,
            ):
                direct, through = await _compared(engine, session, picture)
    added_ms = (statistics.median(through) - statistics.median(direct)) * 1000
    detail = f"{statistics.median(through) * 1000:.2f} against {statistics.median(direct) * 1000:.2f} ms, a small model"
    return at_most("the server's own time for a request", added_ms, 2.0, detail, "ms")


async def _compared(engine: Any, session: ClientSession, picture: bytes) -> tuple[list[float], list[float]]:
    url = f"data:image/jpeg;base64,{base64.b64encode(picture).decode()}"
    body = {"image_url": url, "question": "Is it?", "choices": ["yes", "no"]}
    direct, through = [], []
    for _ in range(REQUESTS):
        began = time.perf_counter()
        await engine.choose(picture, "Is it?", {"yes": ("yes", "Yes"), "no": ("no", "No")}, Asked())
        direct.append(time.perf_counter() - began)
        began = time.perf_counter()
        async with session.post("http://lva-model/v1/query", json=body) as response:
            response.raise_for_status()
            await response.json()
        through.append(time.perf_counter() - began)
    return direct, through


def _available_bytes() -> int:
    found = re.search(r"^MemAvailable: +(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
    assert found
    return int(found[1]) * 1024
