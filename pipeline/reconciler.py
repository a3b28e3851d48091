"""The reconciler: whatever memory loses of an event, the journal still has, and its turn comes all the same."""

import asyncio
from collections.abc import Iterable, Sequence
from typing import Never
from uuid import UUID

import structlog

from pipeline.intake import Intake
from pipeline.journal import Journal
from pipeline.journal_file import Waiting
from pipeline.queue import EventQueue
from pipeline.worker import Retries

EVERY_S = 10.0

log = structlog.get_logger()


class Reconciler:
    """Puts back what is open in the journal and nowhere in memory: not in the queue, not in a retry's pause, not in
    a worker's hands.

    It can't be fooled by what is on its way between them, though it never stops anyone. An event that it misses is
    only put back when the next look misses it too: accept → offer, release → pause and finish → forget each take one
    turn of the event loop, not EVERY_S. Nor does it harm if it is wrong: an id that waits is not added twice, and
    one whose event has ended or is leased finds nothing to lease.
    """

    def __init__(self, journal: Journal, queue: EventQueue, retries: Retries, intake: Intake) -> None:
        self._journal = journal
        self._queue = queue
        self._retries = retries
        self._intake = intake
        self._missed: frozenset[UUID] = frozenset()
        self.put_back = 0

    async def run(self, every_s: float = EVERY_S) -> Never:
        while True:
            await asyncio.sleep(every_s)
            await self.look()

    async def look(self) -> None:
        """One look. Where nothing is missed it costs the journal one count over an index.

        What has ended but is still in a hand at this moment can hide as many lost ones, until a later look.
        """
        if await self._journal.open_count() <= self._known_count():
            self._missed = frozenset()
            return
        waiting, leased = await self._journal.waiting(), await self._journal.leased()
        lost = [event for event in waiting if not self._is_known(event.id)]
        stranded = [event_id for event_id in leased if event_id not in self._intake.open.held]
        await self._heal(
            [event for event in lost if event.id in self._missed],
            [event_id for event_id in stranded if event_id in self._missed],
        )
        self._missed = frozenset(_ids(lost)) | frozenset(stranded)

    async def _heal(self, lost: Sequence[Waiting], stranded: Sequence[UUID]) -> None:
        """Those that a worker left leased wait again from now on, and come back at the look after the next."""
        if not lost and not stranded:
            return
        if stranded:
            await self._journal.release((), stranded)
        self._intake.again(lost)
        self.put_back += len(lost)
        log.error("queue.reconciled", put_back=len(lost), released=len(stranded), hint="memory had lost these events")

    def _known_count(self) -> int:
        return len(self._queue) + len(self._retries) + len(self._intake.open.held)

    def _is_known(self, event_id: UUID) -> bool:
        return event_id in self._queue or event_id in self._retries or event_id in self._intake.open.held


def _ids(events: Iterable[Waiting]) -> Iterable[UUID]:
    return (event.id for event in events)
