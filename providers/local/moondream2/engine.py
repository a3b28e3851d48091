"""Moondream 2, for many callers at once."""

import asyncio
import math
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager
from itertools import chain
from typing import Any, TypeVar

import torch
from PIL import Image

from providers.local import forms
from providers.local.answers import Answer, Choice, Filled, Found
from providers.local.devices import device_of, precision_of
from providers.local.engine import Asked, CaptionLength, Reference
from providers.local.errors import BadRequestError
from providers.local.moondream2 import skills
from providers.local.moondream2.batch import Batch
from providers.local.moondream2.config import TokenizerConfig, load_config
from providers.local.moondream2.crops import Crops, crops_of
from providers.local.moondream2.scheduler import Job, Limits, Picture, Scheduler
from providers.local.moondream2.skills import Extent, Feed, Place, Sampling, Skill, Token
from providers.local.moondream2.tokens import Tokens, load_tokens
from providers.local.moondream2.weights import load_model
from providers.local.pictures import Prepared
from providers.local.settings import ModelSettings
from providers.local.waiting import served

T = TypeVar("T")

_END_S = 60.0
"""A step is over by then, even on a slow CPU."""


class Moondream2:
    def __init__(self, scheduler: Scheduler, tokens: Tokens, settings: ModelSettings, version: str) -> None:
        self.version = version
        self._scheduler = scheduler
        self._config = scheduler.config
        self._tokens = tokens
        self._max_side_px = settings.max_side_px
        self._pictures = Prepared(self._cut, round(settings.max_megapixels * 1e6))

    @property
    def failed(self) -> "Future[None]":
        return self._scheduler.failed

    def stats(self) -> Mapping[str, float]:
        return self._scheduler.stats()

    async def query(
        self,
        picture: bytes | None,
        question: str,
        asked: Asked,
        *,
        reasoning: bool = False,
        places: Sequence[Reference] = (),
    ) -> Answer:
        ids = self._tokens.ids
        prompt = placed(self._tokens.query(question, places, reasoning), places, ids.coord_id, ids.size_id)
        answering = skills.reasoned_answer if reasoning else skills.answer
        return await self._told(picture, self._begun(picture, prompt), answering, asked, 2 if reasoning else 1)

    async def caption(self, picture: bytes, length: CaptionLength, asked: Asked) -> Answer:
        prompt = tuple(map(Token, self._tokens.caption(length)))
        return await self._told(picture, prompt, skills.answer, asked, 1)

    async def _told(
        self,
        picture: bytes | None,
        prompt: tuple[Feed, ...],
        answering: Callable[[Tokens, int, Sampling], Skill[Answer]],
        asked: Asked,
        texts: int,
    ) -> Answer:
        """So many texts, each of as many tokens as are asked for and there is room for."""
        most = min(asked.max_tokens, (self._room(picture, prompt) - 1) // texts)
        tokens, sampling = self._tokens, Sampling(asked.temperature, asked.top_p)
        more = texts * most + 1
        [answer] = await self._all(picture, prompt, more, [lambda: answering(tokens, most, sampling)], asked)
        return answer

    async def choose(
        self, picture: bytes | None, question: str, choices: Mapping[str, Sequence[str]], asked: Asked
    ) -> Choice:
        """The likeliest of these answers, each of which may be worded in several ways. Where every wording is one
        token, one look decides; else each is followed to its end."""
        prompt = self._begun(picture, tuple(map(Token, self._tokens.query(question))))
        wordings = {choice: [self._tokens.encode(text) for text in texts] for choice, texts in choices.items()}
        weights = await self._weights(picture, prompt, wordings, asked)
        total = sum(weights.values())
        shares = {choice: weight / total if total else 1 / len(weights) for choice, weight in weights.items()}
        return Choice(max(shares, key=lambda choice: shares[choice]), shares, total)

    async def _weights(
        self, picture: bytes | None, prompt: tuple[Feed, ...], wordings: Mapping[str, list[list[int]]], asked: Asked
    ) -> dict[str, float]:
        """The probability of each choice, its wordings together."""
        every = list(chain.from_iterable(wordings.values()))
        if all(len(ids) == 1 for ids in every):
            firsts = tuple(dict.fromkeys(first for [first] in every))
            [seen] = await self._all(picture, prompt, 1, [lambda: skills.likelihoods(firsts)], asked)
            by_first = dict(zip(firsts, seen, strict=True))
            return {
                choice: sum(math.exp(by_first[first]) for first in {first for [first] in texts})
                for choice, texts in wordings.items()
            }
        eos = self._tokens.ids.eos_id
        followed = [_following([*ids, eos]) for ids in every]
        told = await self._all(picture, prompt, max(map(len, every)) + 1, followed, asked)
        logs = iter(told)
        return {choice: sum(math.exp(next(logs)) for _ in texts) for choice, texts in wordings.items()}

    async def detect(self, picture: bytes, what: str, max_objects: int, asked: Asked) -> Found:
        return await self._found(picture, self._tokens.detect(what), skills.detect, 3, max_objects, asked)

    async def point(self, picture: bytes, what: str, max_objects: int, asked: Asked) -> Found:
        return await self._found(picture, self._tokens.point(what), skills.point, 2, max_objects, asked)

    async def _found(
        self,
        picture: bytes,
        prompt: Sequence[int],
        finding: Callable[[TokenizerConfig, int], Skill[Found]],
        each: int,
        max_objects: int,
        asked: Asked,
    ) -> Found:
        """`each` object takes so many slots."""
        feeds, ids = tuple(map(Token, prompt)), self._tokens.ids
        most = min(max_objects, self._room(picture, feeds) // each)
        [found] = await self._all(picture, feeds, each * most, [lambda: finding(ids, most)], asked)
        return found

    async def fill(self, picture: bytes | None, question: str, schema: Mapping[str, Any], asked: Asked) -> Filled:
        return await forms.fill(self, picture, question, schema, asked)

    def _begun(self, picture: bytes | None, prompt: tuple[Feed, ...]) -> tuple[Feed, ...]:
        """Without a picture, the prompt itself begins with BOS."""
        return prompt if picture is not None else (Token(self._tokens.ids.bos_id), *prompt)

    def _room(self, picture: bytes | None, prompt: Sequence[Feed]) -> int:
        """Slots behind the prompt."""
        prefix = self._config.prefix_len if picture is not None else 0
        room = self._config.text.max_context - prefix
        if len(prompt) + 3 > room:
            raise BadRequestError(f"the question takes {len(prompt)} tokens; the model has room for {room}")
        return room - len(prompt)

    async def _all(
        self,
        picture: bytes | None,
        prompt: tuple[Feed, ...],
        more: int,
        wanted: Sequence[Callable[[], Skill[T]]],
        asked: Asked,
    ) -> list[T]:
        """Rows with the same prompt, and at most `more` tokens behind it."""
        if more > (room := self._room(picture, prompt)):
            raise BadRequestError(f"an answer takes {more} tokens; behind the question there is room for {room}")
        with self._scheduler.waiting.arriving():
            cut = Picture(*await self._pictures.get(picture)) if picture is not None else None
            jobs = [Job(prompt, cut, skill, len(prompt) + more, asked.urgency) for skill in wanted]
            self._scheduler.waiting.submit(*jobs)
        asked.used.input_tokens += len(jobs) * (len(prompt) + (self._config.prefix_len if cut else 0))
        return await asyncio.gather(*(asyncio.wrap_future(job.future) for job in jobs))

    def _cut(self, picture: Image.Image) -> Crops:
        return crops_of(reduced(picture, self._max_side_px), self._config.vision)


def reduced(picture: Image.Image, side_px: int) -> Image.Image:
    """So that neither side is longer; 0 for as it is. With a side that is not longer than a crop, the whole picture is
    its only part: one encoding instead of up to thirteen, and small things are lost."""
    if not 0 < side_px < max(picture.size):
        return picture
    scale = side_px / max(picture.size)
    width, height = (max(1, round(side * scale)) for side in picture.size)
    return picture.convert("RGB").resize((width, height), Image.Resampling.LANCZOS)


def _following(ids: Sequence[int]) -> Callable[[], Skill[float]]:
    return lambda: skills.likelihood(ids)


def placed(ids: Sequence[int], places: Sequence[Reference], coord_id: int, size_id: int) -> tuple[Feed, ...]:
    """The prompt, with the places and sizes themselves where their marks stand. A box is its centre and its size."""
    coords = iter([value for place in places for value in _centre(place)])
    sizes = iter([Extent(place[2] - place[0], place[3] - place[1]) for place in places if len(place) == 4])
    feeds: list[Feed] = []
    for id_ in ids:
        if places and id_ == coord_id:
            feeds.append(Place(next(coords)))
        elif places and id_ == size_id:
            feeds.append(next(sizes))
        else:
            feeds.append(Token(id_))
    return tuple(feeds)


def _centre(place: Reference) -> tuple[float, float]:
    if len(place) == 2:
        return place
    x_min, y_min, x_max, y_max = place
    return (x_min + x_max) / 2, (y_min + y_max) / 2


@asynccontextmanager
async def open_engine(settings: ModelSettings) -> AsyncIterator[Moondream2]:
    """Loaded, and with its thread running. Raises ModelError."""
    engine, scheduler = await asyncio.to_thread(_loaded, settings)
    async with served(scheduler.waiting, scheduler.run, _END_S):
        yield engine


def _loaded(settings: ModelSettings) -> tuple[Moondream2, Scheduler]:
    torch.set_num_threads(settings.threads or os.cpu_count() or 1)
    device = device_of(settings.device)
    config = load_config(settings.folder / "config.json")
    tokens = load_tokens(settings.folder / "tokenizer.json", config)
    precision = precision_of(settings.precision, device)
    model = load_model(config, settings.folder / "model.safetensors", device, precision)
    limits = Limits(
        rows=settings.rows,
        waiting=settings.waiting,
        prefix_bytes=settings.pictures_mb * 2**20,
        row_bytes=settings.rows_mb * 2**20,
    )
    scheduler = Scheduler(Batch(model), limits)
    version = f"moondream2 {settings.folder.name} {precision}"
    return Moondream2(scheduler, tokens, settings, version), scheduler
