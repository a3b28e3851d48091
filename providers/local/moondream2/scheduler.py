"""Who is in the batch, and when. One thread has the model; anybody may hand it jobs.

Rows leave as soon as they have ended, and those that wait take their places at the next step, most urgent first.
A picture is encoded once; what it became is kept for later questions, as far as the memory for that goes.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass, field
from typing import Any

import structlog
import torch

from providers.local.devices import is_out_of_memory
from providers.local.errors import ModelError
from providers.local.moondream2.batch import Batch, Done, Entry
from providers.local.moondream2.cache import Prefix, slot_bytes
from providers.local.moondream2.config import MoondreamConfig
from providers.local.moondream2.crops import Crops
from providers.local.moondream2.skills import Feed, Skill
from providers.local.waiting import Waiting, deliver

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
class Tally:
    """Counters since the start."""

    rows: int = 0
    steps: int = 0
    rows_stepped: int = 0
    pictures_encoded: int = 0
    pictures_reused: int = 0
    largest_batch: int = 0
    splits: int = 0


class Scheduler:
    """`run` is the life of the thread that has the model."""

    def __init__(self, batch: Batch, limits: Limits) -> None:
        self.waiting: Waiting[Job] = Waiting(limits.waiting, limits.gather_s)
        self.tally = Tally()
        self.failed: Future[None] = Future()
        """Ends with a ModelError when no more can be answered."""
        self._batch = batch
        self._limits = limits
        self._rows_max = limits.rows
        model = batch.model
        self._place_bytes = slot_bytes(model.config.text, model.dtype)
        self._prefix_bytes = model.config.prefix_len * self._place_bytes
        self._prefixes: OrderedDict[bytes, Prefix] = OrderedDict()
        self._active: list[Job] = []

    @property
    def config(self) -> MoondreamConfig:
        return self._batch.model.config

    def stats(self) -> dict[str, float]:
        now = {"waiting": len(self.waiting), "active": len(self._active), "pictures_bytes": self._kept_bytes}
        return now | asdict(self.tally)

    @property
    def _kept_bytes(self) -> int:
        """Of pictures, whether anybody asks about them now or not."""
        return len(self._prefixes) * self._prefix_bytes

    def run(self) -> None:
        """Until it is closed, or fails; then nobody is left waiting for an answer."""
        reason = "the engine was stopped"
        try:
            while self.waiting.until_wanted(is_busy=bool(self._active)):
                self._turn()
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            log.exception("engine.failed")
            self.failed.set_exception(ModelError(reason))
        finally:
            self.waiting.close()
            self.waiting.give_up(reason, *self._active)

    def _turn(self) -> None:
        """Those who gave up leave, those who wait enter, and all in the batch take a step."""
        self._forget_cancelled()
        try:
            if entering := self.waiting.take(self._has_room):
                self._enter(entering)
            if len(self._batch):
                self.tally.steps += 1
                self.tally.rows_stepped += len(self._batch)
                self._finish(self._batch.step())
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            self._retreat(error)

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

    def _retreat(self, error: RuntimeError) -> None:
        """No memory left: all begin anew, half as many at a time. Raises it again when there was only one."""
        if len(self._active) <= 1:
            raise error
        self.tally.splits += 1
        self._rows_max = max(1, len(self._active) // 2)
        log.warning("engine.out_of_memory", rows=len(self._active), rows_from_now_on=self._rows_max)
        again, self._active = self._active, []
        self._batch.clear()
        self._prefixes.clear()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self.waiting.put_back(again)
