"""Jobs that wait for an engine: bounded, the most urgent first, and handed over to one thread."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future, InvalidStateError
from contextlib import asynccontextmanager, contextmanager, suppress
from heapq import heappop, heappush
from itertools import count
from time import monotonic
from typing import Any, Generic, Protocol, TypeVar

from providers.local.errors import ModelError, OverloadedError


class Waits(Protocol):
    """A job. Its future never runs, as one that runs could not be cancelled."""

    @property
    def urgency(self) -> int: ...

    @property
    def future(self) -> "Future[Any]": ...


J = TypeVar("J", bound=Waits)


class Waiting(Generic[J]):
    """Anybody may `submit`; the engine's thread takes."""

    def __init__(self, most: int, gather_s: float) -> None:
        """`gather_s` is how long an idle engine waits for requests that are just being read, so that they begin
        together."""
        self.is_closed = False
        self._most = most
        self._gather_s = gather_s
        self._changed = threading.Condition()
        self._numbers = count()
        self._jobs: list[tuple[int, int, J]] = []
        self._arriving = 0

    def __len__(self) -> int:
        return len(self._jobs)

    @contextmanager
    def arriving(self) -> Iterator[None]:
        """While a request is being read."""
        with self._changed:
            self._arriving += 1
        try:
            yield
        finally:
            with self._changed:
                self._arriving -= 1
                self._changed.notify()

    def submit(self, *jobs: J) -> None:
        """All of them or none. Raises OverloadedError where there is no room, ModelError where nobody works."""
        with self._changed:
            if self.is_closed:
                raise ModelError("the engine has ended")
            if len(self._jobs) + len(jobs) > self._most:
                raise OverloadedError(f"{len(self._jobs)} questions are waiting already")
            for job in jobs:
                heappush(self._jobs, (job.urgency, next(self._numbers), job))
            self._changed.notify()

    def put_back(self, jobs: list[J]) -> None:
        """In front of all others of their urgency, in their order."""
        with self._changed:
            for job in reversed(jobs):
                heappush(self._jobs, (job.urgency, -next(self._numbers), job))

    def until_wanted(self, is_busy: bool) -> bool:
        """Wait until there is something to do, at once if the engine is busy; False once it is closed."""
        with self._changed:
            while not (self.is_closed or is_busy or self._jobs):
                self._changed.wait()
            if not is_busy:
                until = monotonic() + self._gather_s
                while not self.is_closed and self._arriving and (left := until - monotonic()) > 0:
                    self._changed.wait(left)
            return not self.is_closed

    def take(self, fits: Callable[[J, list[J]], bool]) -> list[J]:
        """The next ones, as long as each fits beside those that are taken before it. Who gave up is left out."""
        taken: list[J] = []
        with self._changed:
            while self._jobs and fits(self._jobs[0][-1], taken):
                *_, job = heappop(self._jobs)
                if not job.future.cancelled():
                    taken.append(job)
        return taken

    def close(self) -> None:
        with self._changed:
            self.is_closed = True
            self._changed.notify()

    def give_up(self, reason: str, *more: J) -> None:
        """Tell everybody who waits, and these."""
        for job in (*more, *(job for *_, job in self._jobs)):
            deliver(job, ModelError(reason))
        self._jobs.clear()


def deliver(job: Waits, result: Any) -> None:
    """An exception is raised where the job is awaited."""
    with suppress(InvalidStateError):  # it was cancelled
        if isinstance(result, Exception):
            job.future.set_exception(result)
        else:
            job.future.set_result(result)


@asynccontextmanager
async def served(waiting: Waiting[Any], serve: Callable[[], None], end_s: float) -> AsyncIterator[None]:
    """`serve` has a thread of its own, until those who wait are told that it closes; then so long to end."""
    thread = threading.Thread(target=serve, name="engine", daemon=True)
    thread.start()
    try:
        yield
    finally:
        waiting.close()
        await asyncio.to_thread(thread.join, end_s)
