"""Moondream 2 with random weights, in one precision: how long a picture, a token and many questions take, and how much
memory. A process of its own, so that the memory is its own."""

import json
import resource
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from PIL import Image

from providers.local.devices import device_of, precision_of
from providers.local.moondream2 import skills
from providers.local.moondream2.batch import Batch, Entry
from providers.local.moondream2.cache import Prefix
from providers.local.moondream2.config import MoondreamConfig
from providers.local.moondream2.crops import Crops, crops_of
from providers.local.moondream2.model import Moondream
from providers.local.moondream2.skills import ChooseToken, Skill, Token
from providers.local.moondream2.weights import put

PROMPT = tuple(Token(id_) for id_ in range(1, 13))


def measure(
    config: dict[str, Any], precision: str, batches: list[int], steps: int, questions: int, rounds: int
) -> dict[str, Any]:
    """Seconds: of a picture of one crop, of a step of each batch, and from a picture to the answers of one question
    and of many; MB at most."""
    model = random_model(MoondreamConfig.model_validate(config), precision)
    prefixes = [prefix for picture in pictures(model, max(batches)) for prefix in Batch(model).encode([picture])]
    fresh = iter(pictures(model, 2 * rounds + 2))
    began = time.perf_counter()
    Batch(model).encode([next(fresh)])
    encode_s = time.perf_counter() - began
    result = {
        "encode_s": encode_s,
        "step_s": decoding(model, prefixes, batches, steps),
        "kind": f"{precision_of(precision, model.device)} on {model.device}",
    }
    if questions:
        asked = [[seconds(partial(ask, model, next(fresh), k)) for k in (1, questions)] for _ in range(rounds)]
        one, many = zip(*asked, strict=True)
        result |= {"one_s": statistics.median(one), "many_s": statistics.median(many)}
    return result | {"peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def random_model(config: MoondreamConfig, precision: str) -> Moondream:
    """Each matrix keeps the size of what goes through it."""
    device = device_of("cpu" if precision in ("int8", "int4") else "auto")
    form = precision_of(precision, device)
    with torch.device("meta"):
        model = Moondream(config)
    torch.manual_seed(0)
    for name, shape in sorted((name, parameter.shape) for name, parameter in model.named_parameters()):
        tensor = torch.empty(shape, dtype=form.dtype, device=device)
        if len(shape) > 1:
            tensor.normal_(std=shape[-1] ** -0.5)
        else:
            tensor.fill_(float(name.endswith("ln.weight")))
        put(model, name, tensor, form)
    model.prepare()
    return model


def pictures(model: Moondream, number: int) -> list[Crops]:
    return [crops_of(Image.effect_noise((378, 378), 10 + turn), model.config.vision) for turn in range(number)]


def decoding(model: Moondream, prefixes: list[Prefix], batches: list[int], steps: int) -> dict[int, float]:
    """A step of rows about different pictures. The batches take turns, so that a machine that changes its speed changes
    it for all."""
    running = {}
    for rows in batches:
        running[rows] = batch = Batch(model)
        batch.enter([Entry(row, PROMPT, prefixes[row], _endless()) for row in range(rows)])
        batch.step()
    took = [{rows: seconds(batch.step) for rows, batch in running.items()} for _ in range(steps)]
    return {rows: statistics.median(turn[rows] for turn in took) for rows in batches}


def ask(model: Moondream, picture: Crops, questions: int) -> None:
    """From a picture to the likelihoods of every answer."""
    batch = Batch(model)
    [prefix] = batch.encode([picture])
    batch.enter([Entry(row, PROMPT, prefix, skills.likelihoods([5, 6])) for row in range(questions)])


def _endless() -> Skill[None]:
    token = yield ChooseToken()
    while True:
        token = yield ChooseToken(Token(100 + int(token) % 1000))  # type: ignore[arg-type]


def seconds(job: Callable[[], object]) -> float:
    began = time.perf_counter()
    job()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began


if __name__ == "__main__":
    print(json.dumps(measure(**json.loads(sys.argv[1]))))
