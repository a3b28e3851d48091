"""Who is in the batch, and when. One thread has the model; anybody may hand it jobs.

Rows leave as soon as they have ended, and those that wait take their places at the next step, most urgent first.
A picture is encoded once; what it became is kept for later questions, as far as the memory for that goes.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import structlog

from providers.local.moondream2.batch import Batch, Done, Entry
from providers.local.moondream2.cache import Prefix, slot_bytes
from providers.local.moondream2.config import MoondreamConfig
from providers.local.moondream2.crops import Crops
from providers.local.moondream2.skills import Feed, Skill
from providers.local.waiting import Waiting, deliver
from providers.local.worker import Tally, Worker

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Limits:
    """`prefix_bytes` is for what pictures became, `row_bytes` for what rows have seen of their own."""

    rows: int = 32
    waiting: int = 256
    prefix_bytes: int = 2 * 2**30
    row_bytes: int = 2**30
    gather_s: float = 0.05
    """How long an idle engine waits for requests that are just being read, so that they begin together."""


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """`key` is the same for the same picture."""

    key: bytes
    crops: Crops


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """`places` is the most tokens that its row can come to have, the prompt included. `skill` makes a new one at each
    call: a job that has to be begun anew begins at its start. `future` never runs, as one that runs could not be
    cancelled."""

    prompt: tuple[Feed, ...]
    picture: Picture | None
    skill: Callable[[], Skill[Any]]
    places: int
    urgency: int = 0
    future: "Future[Any]" = field(default_factory=Future)


@dataclass(slots=True)
class Steps(Tally):
    """The batch moves a step at a time, and a picture may be asked about more than once."""

    steps: int = 0
    rows_stepped: int = 0
    pictures_encoded: int = 0
    pictures_reused: int = 0


class Scheduler(Worker[Job]):
    tally: Steps

    def __init__(self, batch: Batch, limits: Limits) -> None:
        super().__init__(Waiting(limits.waiting, limits.gather_s), limits.rows, Steps())
        self._batch = batch
        self._limits = limits
        model = batch.model
        self._place_bytes = slot_bytes(model.config.text, model.dtype)
        self._prefix_bytes = model.config.prefix_len * self._place_bytes
        self._prefixes: OrderedDict[bytes, Prefix] = OrderedDict()

    @property
    def config(self) -> MoondreamConfig:
        return self._batch.model.config

    def stats(self) -> dict[str, float]:
        return super().stats() | {"pictures_bytes": self._kept_bytes}

    @property
    def _kept_bytes(self) -> int:
        """Of pictures, whether anybody asks about them now or not."""
        return len(self._prefixes) * self._prefix_bytes

    def _turn(self) -> None:
        """Those who gave up leave, those who wait enter, and all in the batch take a step."""
        self._forget_cancelled()
        if entering := self.waiting.take(self._has_room):
            self._enter(entering)
        if len(self._batch):
            self.tally.steps += 1
            self.tally.rows_stepped += len(self._batch)
            self._finish(self._batch.step())

    def _forget_cancelled(self) -> None:
        gone = {job for job in self._active if job.future.cancelled()}
        if gone:
            self._batch.drop(lambda key: key in gone)
            self._active = [job for job in self._active if job not in gone]

    def _has_room(self, job: Job, entering: list[Job]) -> bool:
        """A job that is alone always has it."""
        beside = (*self._active, *entering)
        if not beside:
            return True
        rows = len(beside) + 1
        places = max(each.places for each in (job, *beside))
        pictures = {each.picture.key for each in (job, *beside) if each.picture}
        return (
            rows <= self._rows_max
            and rows * places * self._place_bytes <= self._limits.row_bytes
            and len(pictures) * self._prefix_bytes <= self._limits.prefix_bytes
        )

    def _enter(self, jobs: list[Job]) -> None:
        self._active += jobs
        self.tally.rows += len(jobs)
        self._encode([job.picture for job in jobs if job.picture])
        entries = [
            Entry(job, job.prompt, self._prefixes[job.picture.key] if job.picture else None, job.skill())
            for job in jobs
        ]
        self._finish(self._batch.enter(entries))
        self.tally.largest_batch = max(self.tally.largest_batch, len(self._active))

    def _encode(self, pictures: Sequence[Picture]) -> None:
        new = {picture.key: picture for picture in pictures if picture.key not in self._prefixes}
        self.tally.pictures_reused += len({picture.key for picture in pictures}) - len(new)
        for picture in pictures:
            if picture.key in self._prefixes:
                self._prefixes.move_to_end(picture.key)
        if not new:
            return
        self._make_room(len(new))
        encoded = self._batch.encode([picture.crops for picture in new.values()])
        self._prefixes |= zip(new, encoded, strict=True)
        self.tally.pictures_encoded += len(new)

    def _make_room(self, pictures: int) -> None:
        """Forget those that nobody has asked about for the longest time."""
        in_use = {job.picture.key for job in self._active if job.picture}
        for key in [key for key in self._prefixes if key not in in_use]:
            if self._kept_bytes + pictures * self._prefix_bytes <= self._limits.prefix_bytes:
                return
            del self._prefixes[key]

    def _finish(self, done: Sequence[Done]) -> None:
        finished = {job for job, _ in done}
        self._active = [job for job in self._active if job not in finished]
        for job, result in done:
            assert isinstance(job, Job)
            deliver(job, result)

    def _let_go(self) -> None:
        self._batch.clear()
        self._prefixes.clear()
