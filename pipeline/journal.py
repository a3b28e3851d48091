"""The journal: an event is accepted when it is on the disk, and leaves when the database has how it ended.

One thread owns the one connection. What the event loop asks for is collected into one transaction as long as the
disk is busy with the one before (group commit), so that a slow disk costs a flush per batch, not per event.
"""

import asyncio
import fcntl
import os
import queue
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast
from uuid import UUID

import apsw
import structlog
from pydantic import Field

from pipeline.clock import Clock
from pipeline.events import Event, EventOutcome, Gap
from pipeline.journal_file import Ending, JournalFile, Leased, Waiting
from pipeline.journal_schema import JournalError, JournalFullError, connect
from pipeline.rows import event_row, to_json
from pipeline.uploader import OutboxRow
from providers.settings import Section

GROUP_MAX = 256
"""Commands in one transaction at most, so that no one waits for a transaction without end."""

T = TypeVar("T")
log = structlog.get_logger()


class JournalSettings(Section):
    quota_mb: int = Field(1024, ge=16, le=1024 * 1024, description="Disk that waiting events and rows may take")


@dataclass(slots=True)
class _Command:
    run: Callable[[JournalFile], Any]
    done: asyncio.Future[Any]
    result: Any = None
    error: Exception | None = None


@dataclass(frozen=True, slots=True)
class Accepted:
    """What became of an event: `new` is False for one that a recording has told before. `shed` had to make room."""

    new: bool
    shed: tuple[UUID, ...] = ()


class Journal:
    """Commands for the journal's thread. Each await returns after the commit; a failed command leaves no trace."""

    def __init__(self, file: JournalFile, clock: Clock, loop: asyncio.AbstractEventLoop) -> None:
        self._file = file
        self._clock = clock
        self._loop = loop
        self._commands: queue.SimpleQueue[_Command | None] = queue.SimpleQueue()
        self._asked_s: dict[asyncio.Future[Any], float] = {}
        self._has_outbox = asyncio.Event()
        self.failed: asyncio.Future[None] = loop.create_future()

    async def accept(
        self, event: Event, ending: EventOutcome | None = None, reason: str = "", replayed: bool = False
    ) -> Accepted:
        """Make an event durable. With `ending` it is over at once. When the quota is full, the oldest of the least
        urgent events makes room, as a row; if the new one is itself the least urgent, it is the one shed."""
        body = to_json(event_row(event, self._clock.moment()))
        accepted: Accepted = await self._do(lambda file: _accept(file, event, body, ending, reason, replayed))
        self._has_outbox.set()
        return accepted

    async def recover(self) -> list[Waiting]:
        """At a start: every event without an outcome, oldest first."""

        def recover(file: JournalFile) -> list[Waiting]:
            file.recover()
            return file.waiting()

        waiting: list[Waiting] = await self._do(recover)
        self._has_outbox.set()
        return waiting

    async def open_count(self) -> int:
        """How many events have no outcome."""
        return cast(int, await self._do(lambda file: file.open_count()))

    async def waiting(self) -> list[Waiting]:
        """Those of them that no worker has, oldest first."""
        return cast(list[Waiting], await self._do(lambda file: file.waiting()))

    async def leased(self) -> list[UUID]:
        """Those that a worker has."""
        return cast(list[UUID], await self._do(lambda file: file.leased()))

    async def lease(self, ids: Sequence[UUID]) -> list[Leased]:
        return cast(list[Leased], await self._do(lambda file: file.lease(ids)))

    async def release(self, asked: Sequence[UUID], not_asked: Sequence[UUID] = ()) -> None:
        """Back to waiting; `not_asked` without having been tried."""
        await self._do(lambda file: file.release(asked, not_asked))

    async def finish(self, endings: Sequence[Ending]) -> list[bool]:
        """End events, in one commit; False for those that were not open any more."""
        finished: list[bool] = await self._do(lambda file: [file.finish(ending) for ending in endings])
        self._has_outbox.set()
        return finished

    async def record_gap(self, gap: Gap) -> None:
        await self._do(lambda file: file.record_gap(gap))
        self._has_outbox.set()

    async def alarm(self, kind: str, message: str) -> None:
        """A row for whoever looks after the box."""
        await self._do(lambda file: file.alarm(kind, message))
        self._has_outbox.set()

    async def counts(self) -> dict[str, int]:
        return cast(dict[str, int], await self._do(lambda file: file.counts()))

    async def oldest_s(self) -> float:
        """The age of the event that has waited longest for its outcome; 0 when there is none."""
        return cast(float, await self._do(lambda file: file.oldest_s()))

    async def wait_outbox(self) -> None:
        await self._has_outbox.wait()

    async def outbox(self, limit_rows: int, limit_bytes: int) -> list[OutboxRow]:
        self._has_outbox.clear()
        rows: list[OutboxRow] = await self._do(lambda file: file.outbox(limit_rows, limit_bytes))
        if rows:
            self._has_outbox.set()
        return rows

    async def uploaded(self, seqs: Sequence[int]) -> None:
        await self._do(lambda file: file.uploaded(seqs))

    async def dead_letter(self, row: OutboxRow, sqlstate: str, reason: str) -> None:
        await self._do(lambda file: file.dead_letter(row, sqlstate, reason))

    def oldest_command_s(self) -> float:
        """For how long the command that has waited longest waits for its commit; 0 when there is none."""
        return time.monotonic() - next(iter(self._asked_s.values())) if self._asked_s else 0.0

    def close(self) -> None:
        """The thread ends after what was asked before."""
        self._commands.put(None)

    async def _do(self, run: Callable[[JournalFile], T]) -> Any:
        done: asyncio.Future[Any] = self._loop.create_future()
        self._asked_s[done] = time.monotonic()
        done.add_done_callback(self._asked_s.pop)
        self._commands.put(_Command(run, done))
        return await done

    def run(self) -> None:
        """The thread's life."""
        try:
            while group := self._next_group():
                self._commit(group)
                self._loop.call_soon_threadsafe(_settle, group)
        except Exception as error:  # noqa: BLE001 - a journal that fails ends the daemon, whatever it was
            self._loop.call_soon_threadsafe(_fail, self.failed, group, error)
        finally:
            self._file.connection.close()

    def _next_group(self) -> list[_Command]:
        """Wait for one command, take all that came meanwhile; empty at the end."""
        group: list[_Command] = []
        command = self._commands.get()
        while command is not None:
            group.append(command)
            if len(group) == GROUP_MAX or self._commands.empty():
                return group
            command = self._commands.get()
        if group:
            self._commands.put(None)  # first what was asked before the end, then the end
        return group

    def _commit(self, group: list[_Command]) -> None:
        """All in one transaction; if one of them can't be carried out, each in its own, so that the others are."""
        db = self._file.connection
        try:
            db.execute("BEGIN IMMEDIATE")
            for command in group:
                command.result = command.run(self._file)
            db.execute("COMMIT")
        except (apsw.FullError, apsw.ConstraintError, ValueError, KeyError) as error:
            if db.in_transaction:  # a full disk has undone it already
                db.execute("ROLLBACK")
            if len(group) > 1:
                for command in group:
                    self._commit([command])
            elif isinstance(error, apsw.FullError):
                group[0].error = JournalFullError(f"no room on the disk: {error}")
            else:
                group[0].error = error


def _accept(
    file: JournalFile, event: Event, body: str, ending: EventOutcome | None, reason: str, replayed: bool
) -> Accepted:
    shed: list[UUID] = []
    while not file.has_room(event):
        made_room = file.shed_one("journal full", event.priority)
        if made_room is None:
            file.accept(event, body, EventOutcome.SHED, "journal full", replayed)
            return Accepted(False, (*shed, event.id))
        shed.append(made_room)
    return Accepted(file.accept(event, body, ending, reason, replayed), tuple(shed))


def _settle(group: Sequence[_Command]) -> None:
    for command in group:
        if command.done.done():
            continue  # whoever asked was cancelled; the command was carried out all the same
        if command.error:
            command.done.set_exception(command.error)
        else:
            command.done.set_result(command.result)


def _fail(failed: asyncio.Future[None], group: Sequence[_Command], error: Exception) -> None:
    if not failed.done():
        failed.set_exception(JournalError(f"the journal failed: {error}"))
    for command in group:
        if not command.done.done():
            command.done.set_exception(JournalError(f"the journal failed: {error}"))


@asynccontextmanager
async def open_journal(
    state_dir: Path,
    settings: JournalSettings,
    clock: Clock | None = None,
    vfs: str | None = None,
    site: str = "default",
) -> AsyncIterator[Journal]:
    """Open the journal in the state folder, which no other daemon may use meanwhile. Raises JournalError.

    `site` is the box's name in the rows that the journal itself makes.
    `vfs` names what SQLite reads and writes files by: the operating system, unless a test has another disk.
    """
    try:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = _lock(state_dir)
    except OSError as error:
        raise JournalError(f"{state_dir}: {error.strerror}") from error
    try:
        clock = clock or Clock()
        quota_bytes = settings.quota_mb * 2**20
        connection = await asyncio.to_thread(connect, state_dir / "journal.db", quota_bytes, vfs)
        journal = Journal(JournalFile(connection, clock, quota_bytes, site), clock, asyncio.get_running_loop())
        thread = threading.Thread(target=journal.run, name="journal", daemon=True)
        thread.start()
        try:
            yield journal
        finally:
            journal.close()
            await asyncio.to_thread(thread.join)
    finally:
        os.close(lock)


def _lock(state_dir: Path) -> int:
    lock = os.open(state_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise JournalError(f"{state_dir}: another lva is running on this state folder") from None
    return lock
