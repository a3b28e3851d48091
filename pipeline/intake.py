"""Where events come in: first the journal, then the queue; what must make room ends as a row."""

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
from pipeline.open_events import OpenEvents
from pipeline.owed_gaps import OwedGaps
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
        self._owed = OwedGaps()
        self.open = OpenEvents()
        self.tally = IntakeTally()

    async def event(self, event: Event, replayed: bool = False) -> bool:
        """Returns when the event is durable, or was before. False: there was no room, it was never accepted.

        One that nothing is asked about is over at once.
        """
        ending, reason = self._ending_at_once(event)
        began_s = time.monotonic()
        try:
            accepted = await self._journal.accept(event, ending, reason, replayed)
        except JournalFullError as error:
            self._refused(event, error)
            return False
        if accepted.new or accepted.shed:
            self._stages.accepted(event, time.monotonic() - began_s, asked=accepted.new and ending is None)
            await self._accepted(event, accepted, ending, reason)
        else:
            self.tally.known += 1
        return True

    async def _accepted(self, event: Event, accepted: Accepted, ending: EventOutcome | None, reason: str) -> None:
        _tell(event)
        self.tally.accepted[event.kind] += 1
        self._made_room(accepted)
        if accepted.new and ending is None:
            await self._offer(Waiting(event.id, event.priority, 0.0))
        elif accepted.new and ending:
            self._over_at_once(event, ending, reason)
        await self._owed.settle(self._record)

    async def gap(self, gap: Gap) -> None:
        """A span in which a camera was blind, made durable; where there is no room, as soon as there is."""
        try:
            await self._record(gap)
        except JournalFullError:
            self._owed.later(gap)

    async def _record(self, gap: Gap) -> None:
        await self._journal.record_gap(gap)
        self.tally.gaps += 1

    async def resume(self, waiting: Sequence[Waiting]) -> None:
        """After a start: everything unfinished waits for its turn again."""
        for event in waiting:
            await self._offer(event)
        if waiting:
            log.info("journal.resumed", events=len(waiting), oldest_s=round(waiting[0].age_s))

    def again(self, waiting: Sequence[Waiting]) -> None:
        """Events that had a place before wait for their turn anew: nobody has to make room for them."""
        for event in waiting:
            self.open.add(event.id)
            self._queue.put_back(event.id, event.priority, event.age_s)

    async def expire(self) -> None:
        """End what has waited longer than its class may, and write down what there was no room for before."""
        await self._owed.settle(self._record)
        late = self._queue.expired()
        await self._end(late, EventOutcome.EXPIRED, "waited longer than queue.ttl_s allows")

    def _refused(self, event: Event, error: JournalFullError) -> None:
        """It was never accepted, and nothing can be written to say so yet: a gap will, once there is room."""
        self.tally.refused += 1
        if self._owed.refused(event) == 1:  # from then on the gap counts
            log.error("event.refused", event_id=str(event.id), camera=event.camera, kind=event.kind, error=str(error))

    def _ending_at_once(self, event: Event) -> tuple[EventOutcome | None, str]:
        if not self._questions_for(event):
            return EventOutcome.DONE, "nothing to ask"
        if not event.jpeg:
            return EventOutcome.FAILED, "no picture: the camera's process died before it could be taken"
        return None, ""

    async def _offer(self, waiting: Waiting) -> None:
        self.open.add(waiting.id)
        shed = self._queue.offer(waiting.id, waiting.priority, waiting.age_s)
        if shed is not None:
            self._tell_shedding()
            await self._end([shed], EventOutcome.SHED, "queue full: the oldest of the least urgent makes room")

    def _made_room(self, accepted: Accepted) -> None:
        for event_id in accepted.shed:
            self._queue.discard(event_id)
        if accepted.shed:
            self.open.end(accepted.shed)
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
            self.open.end(ids)
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
