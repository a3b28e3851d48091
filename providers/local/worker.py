"""The thread that has a model, whichever it is: it works while it is wanted, and retreats where memory ends."""

from abc import ABC, abstractmethod
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from typing import Generic, TypeVar

import structlog
import torch

from providers.local.devices import is_out_of_memory
from providers.local.errors import ModelError
from providers.local.waiting import Waiting, Waits

log = structlog.get_logger()

J = TypeVar("J", bound=Waits)


@dataclass(slots=True)
class Tally:
    """Counters since the start."""

    rows: int = 0
    largest_batch: int = 0
    splits: int = 0


class Worker(ABC, Generic[J]):
    """`run` is the life of the thread; anybody may hand jobs to `waiting`."""

    def __init__(self, waiting: Waiting[J], rows: int, tally: Tally) -> None:
        self.waiting = waiting
        self.tally = tally
        self.failed: Future[None] = Future()
        """Ends with a ModelError when no more can be answered."""
        self._rows_max = rows
        self._active: list[J] = []

    def stats(self) -> dict[str, float]:
        return {"waiting": len(self.waiting), "active": len(self._active)} | asdict(self.tally)

    def run(self) -> None:
        """Until it is closed, or fails; then nobody is left waiting for an answer."""
        reason = "the engine was stopped"
        try:
            while self.waiting.until_wanted(is_busy=bool(self._active)):
                try:
                    self._turn()
                except RuntimeError as error:
                    if not is_out_of_memory(error) or len(self._active) <= 1:
                        raise
                    self._retreat()
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            log.exception("engine.failed")
            self.failed.set_exception(ModelError(reason))
        finally:
            self.waiting.close()
            self.waiting.give_up(reason, *self._active)

    @abstractmethod
    def _turn(self) -> None:
        """Take what is waiting and go on with it. Who has not been answered yet is in `_active` then."""

    def _let_go(self) -> None:
        """Of what an engine keeps on the device between its turns."""

    def _retreat(self) -> None:
        """No memory left: all begin anew, half as many at a time."""
        self.tally.splits += 1
        self._rows_max = len(self._active) // 2
        log.warning("engine.out_of_memory", rows=len(self._active), rows_from_now_on=self._rows_max)
        again, self._active = self._active, []
        self._let_go()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self.waiting.put_back(again)
