"""Gaps that the journal had no room for, kept until it has: what could not be accepted is told all the same."""

from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime

import structlog

from pipeline.events import Event, Gap
from pipeline.identity import fresh_id
from pipeline.journal_schema import JournalFullError

GAPS_MAX = 1000
"""Of cameras that came and went meanwhile; the oldest are forgotten first."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Refused:
    """Events of one camera that were refused one after the other."""

    site: str
    since: datetime
    until: datetime
    count: int = 1

    def and_also(self, other: "_Refused") -> "_Refused":
        return _Refused(self.site, min(self.since, other.since), max(self.until, other.until), self.count + other.count)

    def gap(self, camera: str) -> Gap:
        events = "1 event" if self.count == 1 else f"{self.count} events"
        return Gap(fresh_id(), self.site, camera, self.since, self.until, f"journal full: {events} refused")


class OwedGaps:
    """One gap for each camera whose events were refused, over the time in which they were; and whole gaps."""

    def __init__(self) -> None:
        self._refused: dict[str, _Refused] = {}
        self._whole: deque[Gap] = deque(maxlen=GAPS_MAX)
        self._settling = False

    def refused(self, event: Event) -> int:
        """Count an event that was not accepted; the count of its camera."""
        times = sorted((event.captured_at, event.detected_at))
        return self._again(event.camera, _Refused(event.site, times[0], times[1]))

    def later(self, gap: Gap) -> None:
        self._whole.append(gap)

    async def settle(self, record: Callable[[Gap], Awaitable[None]]) -> None:
        """Record what is owed, as far as there is room. One caller at a time: for the others it is being done."""
        if self._settling:
            return
        self._settling = True
        try:
            while self._whole:
                await self._settle_whole(self._whole.popleft(), record)
            for camera in list(self._refused):
                await self._settle(camera, record)
        except JournalFullError:
            return
        finally:
            self._settling = False

    async def _settle_whole(self, gap: Gap, record: Callable[[Gap], Awaitable[None]]) -> None:
        try:
            await record(gap)
        except JournalFullError:
            self._whole.appendleft(gap)
            raise

    async def _settle(self, camera: str, record: Callable[[Gap], Awaitable[None]]) -> None:
        refused = self._refused.pop(camera)  # more may be refused while this is on its way to the disk
        try:
            await record(refused.gap(camera))
        except JournalFullError:
            self._again(camera, refused)
            raise
        log.info("events.refused_no_more", camera=camera, refused=refused.count)

    def _again(self, camera: str, refused: _Refused) -> int:
        before = self._refused.get(camera)
        self._refused[camera] = now = before.and_also(refused) if before else refused
        return now.count
