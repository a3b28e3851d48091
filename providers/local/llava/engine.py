"""LLaVA (1.5, NeXT, OneVision) through transformers' own classes, from a folder as transformers saves it."""

import asyncio
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForImageTextToText, AutoProcessor

from providers.local.answers import Answer, Choice, Filled, Found
from providers.local.devices import device_of, precision_of
from providers.local.engine import Asked, CaptionLength, Reference
from providers.local.errors import BadRequestError, ModelError, UnsupportedError
from providers.local.linear import Compressed
from providers.local.llava.worker import Job, LlavaWorker
from providers.local.pictures import Prepared
from providers.local.settings import ModelSettings
from providers.local.waiting import served

END_S = 600.0
"""A batch is over by then, even on a slow CPU."""
CAPTIONS: Mapping[CaptionLength, str] = {
    "short": "Describe the image in a few words.",
    "normal": "Describe the image in one or two sentences.",
    "long": "Describe the image in detail.",
}


class Llava:
    def __init__(self, worker: LlavaWorker, settings: ModelSettings, version: str) -> None:
        self.version = version
        self._worker = worker
        self._pictures = Prepared(lambda picture: picture.convert("RGB"), round(settings.max_megapixels * 1e6))

    @property
    def failed(self) -> "Future[None]":
        return self._worker.failed

    def stats(self) -> Mapping[str, float]:
        return self._worker.stats()

    async def query(
        self,
        picture: bytes | None,
        question: str,
        asked: Asked,
        *,
        reasoning: bool = False,
        places: Sequence[Reference] = (),
    ) -> Answer:
        if reasoning or places:
            raise UnsupportedError("this model has no reasoning, and no places in a question")
        answer: Answer = await self._ask(picture, question, asked)
        return answer

    async def choose(
        self, picture: bytes | None, question: str, choices: Mapping[str, Sequence[str]], asked: Asked
    ) -> Choice:
        wordings = [(choice, wording) for choice, texts in choices.items() for wording in texts]
        weights: list[float] = await self._ask(
            picture, question, asked, wordings=tuple(wording for _, wording in wordings)
        )
        together = dict.fromkeys(choices, 0.0)
        for (choice, _), weight in zip(wordings, weights, strict=True):
            together[choice] += weight
        total = sum(together.values())
        shares = {choice: weight / total if total else 1 / len(together) for choice, weight in together.items()}
        return Choice(max(shares, key=lambda choice: shares[choice]), shares, total)

    async def caption(self, picture: bytes, length: CaptionLength, asked: Asked) -> Answer:
        answer: Answer = await self._ask(picture, CAPTIONS[length], asked)
        return answer

    async def detect(self, picture: bytes, what: str, max_objects: int, asked: Asked) -> Found:
        raise UnsupportedError("this model has no detect")

    async def point(self, picture: bytes, what: str, max_objects: int, asked: Asked) -> Found:
        raise UnsupportedError("this model has no point")

    async def fill(self, picture: bytes | None, question: str, schema: Mapping[str, Any], asked: Asked) -> Filled:
        answer: Answer = await self._ask(picture, question, asked, schema=schema)
        if answer.stop == "length":
            raise BadRequestError(f"max_tokens: {asked.max_tokens} tokens are too few for this schema")
        return Filled(answer.text, len(answer.tokens))

    async def _ask(self, picture: bytes | None, question: str, asked: Asked, **more: Any) -> Any:
        with self._worker.waiting.arriving():
            pixels = (await self._pictures.get(picture))[1] if picture is not None else None
            job = Job(self._worker.prompt(question, pixels is not None), pixels, asked, **more)
            self._worker.waiting.submit(job)
        return await asyncio.wrap_future(job.future)


@asynccontextmanager
async def open_engine(settings: ModelSettings) -> AsyncIterator[Llava]:
    """Loaded, and with its thread running. Raises ModelError."""
    engine, worker = await asyncio.to_thread(_loaded, settings)
    async with served(worker.waiting, worker.run, END_S):
        yield engine


def _loaded(settings: ModelSettings) -> tuple[Llava, LlavaWorker]:
    """From the folder alone: no code from it, no pickle, no network."""
    torch.set_num_threads(settings.threads or os.cpu_count() or 1)
    device = device_of(settings.device)
    precision = precision_of(settings.precision, device)
    dtype = "auto" if precision.bits else precision.dtype
    own = {"local_files_only": True, "trust_remote_code": False}
    try:
        processor = AutoProcessor.from_pretrained(settings.folder, **own)
        model = AutoModelForImageTextToText.from_pretrained(settings.folder, dtype=dtype, use_safetensors=True, **own)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"{settings.folder}: {error}") from error
    model = model.to(device).eval()
    if precision.bits:
        _compress(model, precision.bits)
        model.to(precision.dtype)
    worker = LlavaWorker(model, processor, settings)
    version = f"{model.config.model_type} {settings.folder.name} {precision}"
    return Llava(worker, settings, version), worker


def _compress(model: nn.Module, bits: int) -> None:
    """The language model, which is nearly all of it; what sees, and what chooses the words, has 8 bits in any case."""
    for name, layer in list(model.named_modules()):
        if isinstance(layer, nn.Linear):
            model.set_submodule(name, Compressed(layer, bits if ".language_model." in name else 8))
