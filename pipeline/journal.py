"""The journal: an event is accepted when it is on the disk, and leaves when the database has how it ended."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast
from uuid import UUID

import structlog
from pydantic import Field

from pipeline.clock import Clock
from pipeline.events import Event, EventOutcome, Gap
from pipeline.journal_file import Ending, JournalFile, Leased, Waiting
from pipeline.journal_folder import locked_folder
from pipeline.journal_open import open_sound
from pipeline.journal_outbox import DeadLetter
from pipeline.journal_reserve import DiskReserve
from pipeline.journal_writer import JournalWriter
from pipeline.rows import event_row, to_json
from pipeline.uploader import OutboxRow
from providers.settings import Section

T = TypeVar("T")
log = structlog.get_logger()


class JournalSettings(Section):
    quota_mb: int = Field(1024, ge=16, le=1024 * 1024, description="Disk that waiting events and rows may take")
    reserve_mb: int = Field(
        64,
        ge=0,
        le=1024,
        description="Disk held back for when it is full, so that what waits can be sent and forgotten",
    )
    floor_mb: int = Field(
        256, ge=0, le=1024 * 1024, description="Free disk that is left to others; with less, the journal does not grow"
    )


@dataclass(frozen=True, slots=True)
class Accepted:
    """What became of an event: `new` is False for one that a recording has told before. `shed` had to make room."""

    new: bool
    shed: tuple[UUID, ...] = ()


class Journal:
    """Commands for the journal's thread. Each await returns after the commit; a failed command leaves no trace.

    Where there is no room, `accept` and `record_gap` raise JournalFullError. The other commands make room or need
    next to none: they wait until they can be carried out.
    """

    def __init__(self, writer: JournalWriter, clock: Clock) -> None:
        self._writer = writer
        self._clock = clock
        self.failed = writer.failed
        """Fails with JournalError when the journal does; then nothing more can be accepted."""

    async def accept(
        self, event: Event, ending: EventOutcome | None = None, reason: str = "", replayed: bool = False
    ) -> Accepted:
        """Make an event durable. With `ending` it is over at once. When quota or disk is full, the oldest of the least
        urgent events makes room, as a row; if the new one is itself the least urgent, it is the one shed."""
        body = to_json(event_row(event, self._clock.moment()))
        accepted: Accepted = await self._do(
            lambda file: _accept(file, event, body, ending, reason, replayed), patient=False
        )
        self._writer.has_outbox.set()
        return accepted

    async def recover(self) -> list[Waiting]:
        """At a start: every event without an outcome, oldest first. One with which the daemon died twice has failed."""
        await self._do(lambda file: file.recover())
        quarantined: list[UUID] = await self._do(lambda file: file.quarantine())
        for event_id in quarantined:
            log.error("event.quarantined", event_id=str(event_id), hint="the daemon died twice with it in hand")
        self._writer.has_outbox.set()
        return await self.waiting()

    async def open_count(self) -> int:
        """How many events have no outcome."""
        return cast(int, await self._do(lambda file: file.open_count()))

    async def waiting(self) -> list[Waiting]:
        """Those of them that no worker has, oldest first."""
        return cast(list[Waiting], await self._do(lambda file: file.waiting()))

    async def leased(self) -> list[UUID]:
        """Those that a worker has."""
        return cast(list[UUID], await self._do(lambda file: file.leased()))

    async def lease(self, ids: Sequence[UUID], suspects: bool = False) -> list[Leased]:
        """Give events to a worker; those that do not wait any more are left out. Events with which the daemon died
        before are `suspects`, and are only given when asked for."""
        return cast(list[Leased], await self._do(lambda file: file.lease(ids, suspects)))

    async def suspects(self, ids: Sequence[UUID]) -> list[UUID]:
        """Those of them that wait, and with which the daemon died before."""
        return cast(list[UUID], await self._do(lambda file: file.suspects(ids)))

    async def release(self, asked: Sequence[UUID], not_asked: Sequence[UUID] = ()) -> None:
        """Back to waiting; `not_asked` without having been tried."""
        await self._do(lambda file: file.release(asked, not_asked))

    async def finish(self, endings: Sequence[Ending]) -> list[bool]:
        """End events, in one commit; False for those that were not open any more."""
        finished: list[bool] = await self._do(lambda file: [file.finish(ending) for ending in endings])
        self._writer.has_outbox.set()
        return finished

    async def record_gap(self, gap: Gap) -> None:
        await self._do(lambda file: file.record_gap(gap), patient=False)
        self._writer.has_outbox.set()

    async def alarm(self, kind: str, message: str) -> None:
        """A row for whoever looks after the box."""
        await self._do(lambda file: file.alarm(kind, message))
        self._writer.has_outbox.set()

    async def counts(self) -> dict[str, int]:
        return cast(dict[str, int], await self._do(lambda file: file.counts()))

    async def oldest_s(self) -> float:
        """The age of the event that has waited longest for its outcome; 0 when there is none."""
        return cast(float, await self._do(lambda file: file.oldest_s()))

    async def wait_outbox(self) -> None:
        await self._writer.has_outbox.wait()

    async def outbox(self, limit_rows: int, limit_bytes: int) -> list[OutboxRow]:
        self._writer.has_outbox.clear()
        rows: list[OutboxRow] = await self._do(lambda file: file.outbox(limit_rows, limit_bytes))
        if rows:
            self._writer.has_outbox.set()
        return rows

    async def uploaded(self, seqs: Sequence[int]) -> None:
        await self._do(lambda file: file.uploaded(seqs))

    async def dead_letter(self, row: OutboxRow, sqlstate: str, reason: str) -> None:
        await self._do(lambda file: file.dead_letter(row, sqlstate, reason))

    async def dead_letters(self, limit: int) -> list[DeadLetter]:
        """The oldest rows that the database refused."""
        return cast(list[DeadLetter], await self._do(lambda file: file.dead_letters(limit)))

    async def retry_dead_letters(self, seqs: Sequence[int] | None) -> int:
        """Send these, or all, once more, and say how many there were. One that is refused again comes back."""
        count: int = await self._do(lambda file: file.retry_dead_letters(seqs))
        self._writer.has_outbox.set()
        return count

    def oldest_command_s(self) -> float:
        """For how long the journal's thread has owed an answer; 0 when it owes none. What waits for room on a full
        disk is not owed."""
        return self._writer.commands.oldest_s()

    async def _do(self, run: Callable[[JournalFile], T], patient: bool = True) -> Any:
        return await self._writer.commands.give(run, patient)


def _accept(
    file: JournalFile, event: Event, body: str, ending: EventOutcome | None, reason: str, replayed: bool
) -> Accepted:
    if replayed and file.is_told(event.id):
        return Accepted(False)
    shed: list[UUID] = []
    while not file.has_room(event):
        made_room = file.shed_one("journal full", event.priority)
        if made_room is None:
            file.accept(event, body, EventOutcome.SHED, "journal full", replayed)
            return Accepted(False, (*shed, event.id))
        shed.append(made_room)
    file.accept(event, body, ending, reason, replayed)
    return Accepted(True, tuple(shed))


@asynccontextmanager
async def open_journal(
    state_dir: Path,
    settings: JournalSettings,
    clock: Clock | None = None,
    vfs: str | None = None,
    site: str = "default",
) -> AsyncIterator[Journal]:
    """Open the journal in the state folder, which no other daemon may use meanwhile. Raises JournalError.

    One that is damaged is set aside, and what can be read of it goes on. `site` is the box's name in the rows that
    the journal itself makes. `vfs` names what SQLite reads and writes files by: the operating system, unless a test
    has another disk.
    """
    clock, path = clock or Clock(), state_dir / "journal.db"
    quota_bytes, loop = settings.quota_mb * 2**20, asyncio.get_running_loop()
    reserve = DiskReserve(state_dir, settings.reserve_mb * 2**20, settings.floor_mb * 2**20)
    with locked_folder(state_dir):
        connection = await asyncio.to_thread(open_sound, path, quota_bytes, reserve, clock, site, vfs)
        file = JournalFile(connection, clock, quota_bytes, reserve, site)
        writer = JournalWriter(path, file, reserve, loop)
        thread = threading.Thread(target=writer.run, name="journal", daemon=True)
        thread.start()
        try:
            yield Journal(writer, clock)
        finally:
            writer.commands.close()
            await asyncio.to_thread(thread.join)
            if writer.failed.done() and not writer.failed.cancelled():
                writer.failed.exception()  # whoever cares has seen it
