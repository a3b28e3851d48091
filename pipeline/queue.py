"""The queue: whose turn it is. It holds ids; the journal holds the events."""

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass
from uuid import UUID

from pydantic import Field

from pipeline.clock import since_boot_s
from pipeline.events import Priority
from providers.settings import Section

HOUR_S = 3600.0


class PerPriority(Section):
    """A number of seconds for each class."""

    critical: float = Field(gt=0)
    high: float = Field(gt=0)
    medium: float = Field(gt=0)
    low: float = Field(gt=0)

    def of(self, priority: Priority) -> float:
        return float(getattr(self, priority.word))


class Patience(PerPriority):
    critical: float = Field(1.0, gt=0, description="Not used for the order: critical stands before all else")
    high: float = Field(2.0, gt=0, description="Seconds")
    medium: float = Field(15.0, gt=0, description="Seconds")
    low: float = Field(120.0, gt=0, description="Seconds")


class TimeToLive(PerPriority):
    critical: float = Field(7 * 24 * HOUR_S, gt=0, description="Seconds: a week")
    high: float = Field(24 * HOUR_S, gt=0, description="Seconds: a day")
    medium: float = Field(6 * HOUR_S, gt=0, description="Seconds: six hours")
    low: float = Field(HOUR_S, gt=0, description="Seconds: an hour")


class QueueSettings(Section):
    limit: int = Field(
        10_000, ge=1, le=1_000_000, description="Events waiting at most; beyond, the oldest of the least urgent is shed"
    )
    patience_s: Patience = Field(
        Patience(), description="A class's events are served as if they had come this much later"
    )
    ttl_s: TimeToLive = Field(TimeToLive(), description="Waiting longer than this, an event expires")


@dataclass(frozen=True, slots=True, order=True)
class _Turn:
    """What the heap compares: `due`, then the order of arrival; never the id."""

    due: float
    order: int
    id: UUID | None


_END = _Turn(math.inf, 0, None)
"""Sorts last; put back by each worker that finds it."""


_PASSED_OVER_MAX = 1000
"""Turns of events that are gone, beyond as many as wait: then the heap is made anew without them."""


@dataclass(frozen=True, slots=True)
class _Waiting:
    order: int
    expires: float


class EventQueue:
    """An `asyncio.PriorityQueue` of ids, bounded, in which urgency and age are one number.

    CRITICAL stands before all else. For the others `due` is the time of arrival plus the patience of the class, so
    that an old event of a low class comes before a new one of a higher class: nothing starves.
    `clock` counts seconds on while the machine sleeps, and no one can set it.
    """

    def __init__(self, settings: QueueSettings, clock: Callable[[], float] = since_boot_s) -> None:
        self._settings = settings
        self._clock = clock
        self._heap: asyncio.PriorityQueue[_Turn] = asyncio.PriorityQueue()
        self._by_class: dict[Priority, dict[UUID, _Waiting]] = {priority: {} for priority in Priority}
        self._order = 0
        self._taking = asyncio.Lock()
        self._grown = asyncio.Event()
        self.closed = asyncio.Event()
        """Set once no more events come."""

    def __len__(self) -> int:
        return sum(map(len, self._by_class.values()))

    def __contains__(self, event_id: UUID) -> bool:
        return any(event_id in waiting for waiting in self._by_class.values())

    def now_s(self) -> float:
        """By the clock that ages are counted with."""
        return self._clock()

    def depth(self) -> dict[str, int]:
        """How many wait, by class."""
        return {priority.word: len(waiting) for priority, waiting in self._by_class.items()}

    def offer(self, event_id: UUID, priority: Priority, age_s: float = 0.0) -> UUID | None:
        """Let an event wait for its turn; `age_s` is how long it has waited already. An id that waits is not added
        again. Returns the event that had to make room, if any: the oldest of the least urgent, maybe this one."""
        self.put_back(event_id, priority, age_s)
        return self._shed() if len(self) > self._settings.limit else None

    def put_back(self, event_id: UUID, priority: Priority, age_s: float) -> None:
        """As `offer`, for one that was taken before: nobody has to make room for it."""
        if event_id in self._by_class[priority]:
            return
        arrived = self._clock() - age_s
        due = -math.inf if priority is Priority.CRITICAL else arrived + self._settings.patience_s.of(priority)
        self._order += 1
        self._by_class[priority][event_id] = _Waiting(self._order, arrived + self._settings.ttl_s.of(priority))
        self._forget_passed_over()
        self._heap.put_nowait(_Turn(due, self._order, event_id))
        self._grown.set()

    def expired(self) -> list[UUID]:
        """Take out every event that has waited longer than its class may."""
        now = self._clock()
        late = [
            (priority, event_id)
            for priority, waiting in self._by_class.items()
            for event_id, entry in waiting.items()
            if entry.expires <= now
        ]
        for priority, event_id in late:
            del self._by_class[priority][event_id]
        return [event_id for _, event_id in late]

    def discard(self, event_id: UUID) -> bool:
        """Take an event out, whatever its turn, which stays in the heap and is passed over. False: it was not in."""
        return any(waiting.pop(event_id, None) for waiting in self._by_class.values())

    async def take(self, size: int, linger_s: float) -> list[UUID]:
        """The next ids, up to `size`, most urgent first; waits for one, then at most linger_s for more.

        Empty once the queue is closed and has run dry. A cancelled take loses nothing: nothing leaves the heap
        before everything has been waited for, so that a late urgent event still leads the batch.
        """
        async with self._taking:
            while True:
                self._heap.put_nowait(await self._heap.get())
                if linger_s > 0:
                    await self._linger(size, linger_s)
                if (ids := self._pop(size)) or self.closed.is_set():
                    return ids

    def close(self) -> None:
        """No more events come: take returns what is left, then nothing."""
        self.closed.set()
        self._heap.put_nowait(_END)
        self._grown.set()

    async def _linger(self, size: int, linger_s: float) -> None:
        try:
            async with asyncio.timeout(linger_s):
                while len(self) < size and not self.closed.is_set():
                    self._grown.clear()
                    await self._grown.wait()
        except TimeoutError:
            pass

    def _pop(self, size: int) -> list[UUID]:
        ids: list[UUID] = []
        while len(ids) < size and not self._heap.empty():
            turn = self._heap.get_nowait()
            if turn.id is None:
                self._heap.put_nowait(turn)
                break
            if self._is_valid(turn.id, turn.order):
                self.discard(turn.id)
                ids.append(turn.id)
        return ids

    def _is_valid(self, event_id: UUID, order: int) -> bool:
        """Whether its event waits, and by this turn: one that was gone and came back has another."""
        return any((entry := waiting.get(event_id)) and entry.order == order for waiting in self._by_class.values())

    def _forget_passed_over(self) -> None:
        """In a flood that nobody takes from, what was shed must not stay in memory either."""
        if self._heap.qsize() <= 2 * len(self) + _PASSED_OVER_MAX:
            return
        turns = [self._heap.get_nowait() for _ in range(self._heap.qsize())]
        for turn in turns:
            if turn.id is None or self._is_valid(turn.id, turn.order):
                self._heap.put_nowait(turn)

    def _shed(self) -> UUID:
        waiting = next(self._by_class[priority] for priority in reversed(Priority) if self._by_class[priority])
        oldest = next(iter(waiting))
        del waiting[oldest]
        return oldest
