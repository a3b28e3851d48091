"""Where events come in: first the journal, then the queue; what must make room ends as a row."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from uuid import UUID

import structlog

from pipeline.events import Event, EventOutcome, Gap
from pipeline.journal import Accepted, Journal
from pipeline.journal_file import Ending, Waiting
from pipeline.journal_schema import JournalFullError
from pipeline.queue import EventQueue
from pipeline.stages import Stages
from providers.base import Question

log = structlog.get_logger()


@dataclass(slots=True)
class IntakeTally:
    """Counters since the start."""

    accepted: Counter[str] = field(default_factory=Counter)
    known: int = 0
    ended: Counter[str] = field(default_factory=Counter)
    """By outcome: what ended without a worker (nothing to ask, no picture, shed, expired)."""
    gaps: int = 0
    refused: int = 0


class OpenEvents:
    """How many events have no outcome yet, for whoever waits until there are none."""

    def __init__(self) -> None:
        self.count = 0
        self._changed = asyncio.Event()

    def add(self) -> None:
        self.count += 1

    def end(self, count: int) -> None:
        self.count -= count
        if count:
            self._changed.set()

    async def wait_none(self, patience_s: float) -> bool:
        """Wait until all have ended; False if none ended for patience_s."""
        while self.count:
            self._changed.clear()
            try:
                async with asyncio.timeout(patience_s):
                    await self._changed.wait()
            except TimeoutError:
                return False
        return True


class Intake:
    """The one door into journal and queue."""

    def __init__(
        self,
        journal: Journal,
        queue: EventQueue,
        questions_for: Callable[[Event], tuple[Question, ...]],
        stages: Stages | None = None,
    ) -> None:
        self._journal = journal
        self._queue = queue
        self._questions_for = questions_for
        self._stages = stages or Stages()
        self.open = OpenEvents()
        self.tally = IntakeTally()

    async def event(self, event: Event, replayed: bool = False) -> None:
        """Returns when the event is durable. One that nothing is asked about is over at once."""
        ending, reason = self._ending_at_once(event)
        began_s = time.monotonic()
        try:
            accepted = await self._journal.accept(event, ending, reason, replayed)
        except JournalFullError as error:
            self._refused(event, error)
            return
        if not accepted.new and not accepted.shed:
            self.tally.known += 1
            return
        self._stages.accepted(event, time.monotonic() - began_s, asked=accepted.new and ending is None)
        _tell(event)
        self.tally.accepted[event.kind] += 1
        self._made_room(accepted)
        if accepted.new and ending is None:
            await self._offer(Waiting(event.id, event.priority, 0.0))
        elif accepted.new and ending:
            self._over_at_once(event, ending, reason)

    async def gap(self, gap: Gap) -> None:
        """A span in which a camera was blind, made durable."""
        await self._journal.record_gap(gap)
        self.tally.gaps += 1

    async def resume(self, waiting: Sequence[Waiting]) -> None:
        """After a start: everything unfinished waits for its turn again."""
        for event in waiting:
            await self._offer(event)
        if waiting:
            log.info("journal.resumed", events=len(waiting), oldest_s=round(waiting[0].age_s))

    async def expire(self) -> None:
        """End what has waited longer than its class may."""
        late = self._queue.expired()
        await self._end(late, EventOutcome.EXPIRED, "waited longer than queue.ttl_s allows")

    def _refused(self, event: Event, error: JournalFullError) -> None:
        """It was never accepted, and nothing could be written to say so: the log is all that is left."""
        self.tally.refused += 1
        log.error("event.refused", event_id=str(event.id), camera=event.camera, kind=event.kind, error=str(error))

    def _ending_at_once(self, event: Event) -> tuple[EventOutcome | None, str]:
        if not self._questions_for(event):
            return EventOutcome.DONE, "nothing to ask"
        if not event.jpeg:
            return EventOutcome.FAILED, "no picture: the camera's process died before it could be taken"
        return None, ""

    async def _offer(self, waiting: Waiting) -> None:
        self.open.add()
        shed = self._queue.offer(waiting.id, waiting.priority, waiting.age_s)
        if shed is not None:
            self._tell_shedding()
            await self._end([shed], EventOutcome.SHED, "queue full: the oldest of the least urgent makes room")

    def _made_room(self, accepted: Accepted) -> None:
        for event_id in accepted.shed:
            self._queue.discard(event_id)
        if accepted.shed:
            self.open.end(len(accepted.shed) - (0 if accepted.new else 1))
            self._tell_shedding()
            self.tally.ended[EventOutcome.SHED] += len(accepted.shed)

    def _tell_shedding(self) -> None:
        """Once: from then on the summary counts."""
        if not self.tally.ended[EventOutcome.SHED]:
            log.warning("queue.shedding", hint="events come faster than providers answer; the summary counts on")

    def _over_at_once(self, event: Event, ending: EventOutcome, reason: str) -> None:
        self.tally.ended[ending] += 1
        if ending is EventOutcome.FAILED:
            log.warning("event.failed", event_id=str(event.id), camera=event.camera, kind=event.kind, reason=reason)

    async def _end(self, ids: Sequence[UUID], outcome: EventOutcome, reason: str) -> None:
        if ids:
            await self._journal.finish([Ending(event_id, outcome, reason) for event_id in ids])
            self.open.end(len(ids))
            self.tally.ended[outcome] += len(ids)


def _tell(event: Event) -> None:
    log.info(
        "event.accepted",
        event_id=str(event.id),
        camera=event.camera,
        kind=event.kind,
        priority=event.priority.word,
        reason=event.reason,
        picture_kb=round(len(event.jpeg) / 1000),
    )
