"""The model server's engine: against itself at batch 1, against asking about pictures one by one, against no server."""

import asyncio
import gc
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import psutil
import torch
from aiohttp import ClientSession, UnixConnector
from PIL import Image

from daemon.bench.figures import Figure, at_least, at_most
from daemon.bench.material import Material
from providers.local.devices import device_of, dtype_of
from providers.local.engine import Asked
from providers.local.moondream2 import skills
from providers.local.moondream2.batch import Batch, Entry
from providers.local.moondream2.config import MoondreamConfig
from providers.local.moondream2.crops import crops_of
from providers.local.moondream2.model import Moondream
from providers.local.moondream2.skills import ChooseToken, Skill, Token
from providers.local.moondream2.vectors import Vectors
from providers.local.server import Service, listening
from providers.local.settings import ModelSettings, ServerSettings

VECTORS = Path(__file__).parents[2] / "tests" / "data" / "moondream2"
BATCHES = (2, 4, 8, 16)
STEPS = 12
QUESTIONS = 8
REQUESTS = 200

_HALF_GIGABYTE = {
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
    model = await asyncio.to_thread(random_model, MoondreamConfig.model_validate(_HALF_GIGABYTE))
    for figure in decoding(model):
        yield figure
    yield one_picture(model)
    del model
    gc.collect()
    for figure in await asyncio.to_thread(lambda: list(full_size())):
        yield figure
    if VECTORS.exists():
        yield await overhead()


def random_model(config: MoondreamConfig) -> Moondream:
    """In the precision that the device is fast at. Each matrix keeps the size of what goes through it."""
    device = device_of("auto")
    dtype = dtype_of("auto", device)
    with torch.device("meta"):
        model = Moondream(config)
    model.to_empty(device=device)
    model.to(dtype)
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        scale = parameter.shape[-1] ** -0.5 if parameter.dim() > 1 else 0.0
        parameter.data.normal_(std=scale) if scale else parameter.data.fill_(float(name.endswith("ln.weight")))
    model.prepare()
    return model


def exactness() -> Figure:
    """The worst of all comparisons, as a share of what is allowed."""
    steps = list(Vectors(VECTORS).check())
    worst = max(steps, key=lambda step: step.share)
    problems = sum(len(step.problems) for step in steps)
    compared = sum(step.compared for step in steps)
    detail = f"{compared} comparisons, {problems} differ; the worst: {worst.where}, {worst.worst:.2g}"
    return at_most("Moondream 2 in f32 against the reference's answers", worst.share, 1.0, detail, "of the tolerance")


def endless() -> Skill[None]:
    token = yield ChooseToken()
    while True:
        token = yield ChooseToken(Token(100 + int(token) % 1000))  # type: ignore[arg-type]


def pictures(model: Moondream, number: int) -> list[Any]:
    return [crops_of(Image.effect_noise((378, 378), 10 + turn), model.config.vision) for turn in range(number)]


def decoding(model: Moondream) -> Iterator[Figure]:
    """Tokens a second of rows about different pictures."""
    prefixes = [prefix for turn in pictures(model, max(BATCHES)) for prefix in Batch(model).encode([turn])]
    speeds = {}
    for rows in (1, *BATCHES):
        batch = Batch(model)
        prompt = tuple(Token(id_) for id_ in range(1, 13))
        batch.enter([Entry(row, prompt, prefixes[row], endless()) for row in range(rows)])
        batch.step()
        took = [_seconds(batch.step) for _ in range(STEPS)]
        speeds[rows] = rows / statistics.median(took)
    for rows in BATCHES:
        detail = f"{speeds[rows]:.1f} against {speeds[1]:.1f} tokens/s, decoder of 300 M weights, {_kind(model)}"
        bound = 3.0 if rows == 8 else None
        yield at_least(f"decoding {rows} rows in a batch, against 1", speeds[rows] / speeds[1], bound, detail)


def one_picture(model: Moondream) -> Figure:
    """From a picture to the first token of every answer."""
    prompt = tuple(Token(id_) for id_ in range(1, 13))
    turns = iter(pictures(model, 12))

    def asked(questions: int) -> None:
        batch = Batch(model)
        [prefix] = batch.encode([next(turns)])
        batch.enter([Entry(row, prompt, prefix, skills.likelihoods([5, 6])) for row in range(questions)])

    asked(1)
    one = statistics.median(_seconds(lambda: asked(1)) for _ in range(3))
    many = statistics.median(_seconds(lambda: asked(QUESTIONS)) for _ in range(3))
    detail = f"{many * 1000:.0f} against {one * 1000:.0f} ms, {_kind(model)}"
    name = f"{QUESTIONS} questions about one picture, against one question"
    return at_most(name, many / one, 1 + 0.1 * QUESTIONS, detail)


def full_size() -> Iterator[Figure]:
    """The published sizes, with random weights; where there is memory for them."""
    config = MoondreamConfig()
    need = 2 * 1_927_237_104 * dtype_of("auto", device_of("auto")).itemsize
    if psutil.virtual_memory().available < need:
        return
    model = random_model(config)
    batch, [crops] = Batch(model), pictures(model, 1)
    prefix_s = _seconds(lambda: batch.encode([crops]))
    [prefix] = batch.encode([crops])
    prompt = tuple(Token(id_) for id_ in range(1, 13))
    batch.enter([Entry(0, prompt, prefix, endless())])
    token_s = statistics.median(_seconds(batch.step) for _ in range(5))
    held_mb = psutil.Process().memory_info().rss / 2**20
    kind = _kind(model)
    yield at_most("Moondream 2 at full size: a picture of one crop", prefix_s, None, f"random weights, {kind}", "s")
    yield at_most("Moondream 2 at full size: a token, batch 1", token_s, None, f"random weights, {kind}", "s")
    yield at_most("Moondream 2 at full size: memory", held_mb, None, f"resident, one picture kept, {kind}", "MB")


async def overhead() -> Figure:
    """What HTTP adds to a question about a picture that is known already."""
    from providers.local.engine import open_engine

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
    import base64

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


def _seconds(job: Callable[[], object]) -> float:
    began = time.perf_counter()
    job()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began


def _kind(model: Moondream) -> str:
    return f"{str(model.dtype).removeprefix('torch.')} on {model.device}"
