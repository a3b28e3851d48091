"""The thread that owns the journal's one connection: commands come in, are committed together, and are answered.

What comes while the disk is busy goes into one transaction (group commit), so that a slow disk costs a flush per
batch, not per event. Where there is no room, a command that brings something new is refused, and one that makes room
waits for it. The first error of the disk itself ends the thread: after it nothing is known of what was written.
"""

import asyncio
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import apsw
import structlog

from pipeline.journal_commands import Command, JournalCommands
from pipeline.journal_errors import JournalError, JournalFullError, is_corruption, is_full
from pipeline.journal_file import JournalFile
from pipeline.journal_reserve import DiskReserve
from pipeline.journal_schema import close_as_it_is, suspect

CHECKPOINT_PAGES = 1000
"""Of the write-ahead log, after which it is worked into the file. SQLite would do that by itself, but would tell
nobody when the disk fails at it."""

QUIET_S = 5.0
"""Without a command for so long there is time for what can wait; and so often the disk is looked at."""

RETRY_S = 1.0
"""How often what found no room is tried again."""

LARGE_LOG_PAGES = 500
"""A log's file that has grown to this is cut when there is time."""

BEYOND_QUOTA_PAGES = 1000
"""What makes room may take so much to do it."""

log = structlog.get_logger()


class JournalWriter:
    """`run` is the thread's life; but for what the first lines of __init__ make, all here is the thread's own."""

    def __init__(self, path: Path, file: JournalFile, reserve: DiskReserve, loop: asyncio.AbstractEventLoop) -> None:
        self.commands = JournalCommands(loop)
        self.has_outbox = asyncio.Event()
        self.failed: asyncio.Future[None] = loop.create_future()
        self._path = path
        self._file = file
        self._reserve = reserve
        self._waiting_for_room: list[Command] = []
        self._most_pages = int(str(file.connection.pragma("max_page_count")))
        self._log_pages = 0
        self._log_file_pages = 0
        self._is_untidy = False
        self._is_disk_full = False
        self._looked_s = time.monotonic()

    def run(self) -> None:
        group: list[Command] | None = []
        self._file.connection.set_wal_hook(self._note_log_pages)
        try:
            while (group := self.commands.next_group(self._patience_s())) is not None:
                self._commit(group)
                self._keep_house(is_quiet=not group)
        except Exception as error:  # noqa: BLE001 - a journal that fails ends the daemon, whatever it was
            self._break(group or [], error)
        else:
            self.commands.end(self._waiting_for_room, JournalError("the journal is closed"))
            self._file.connection.close()

    def _patience_s(self) -> float | None:
        if self._waiting_for_room:
            return RETRY_S
        return QUIET_S if self._is_untidy or self._is_disk_full or not self._reserve.is_whole else None

    def _commit(self, group: Sequence[Command]) -> None:
        if not group:
            return
        self._carry_out(group)
        self.commands.answer(group)
        self._is_untidy = True
        if self._log_pages >= CHECKPOINT_PAGES and not self._checkpoint():
            self._make_room()

    def _carry_out(self, group: Sequence[Command]) -> None:
        """All in one transaction; if one of them can't be carried out, each in its own, so that the others are."""
        error = self._transact(group)
        if isinstance(error, JournalFullError) and self._make_room():
            error = self._transact(group)
        if error and len(group) > 1:
            for command in group:
                self._carry_out([command])
        elif error:
            self._not_carried_out(group[0], error)
        if self._file.is_short_of_disk:
            self._note_full_disk("what is left is for others: the journal no longer grows")

    def _transact(self, group: Sequence[Command]) -> Exception | None:
        """What stood in the way; then nothing has changed. Raises what means that file or disk is not sound."""
        db = self._file.connection
        try:
            db.execute("BEGIN IMMEDIATE")
            self._file.begin()
            for command in group:
                command.result = command.run(self._file)
            db.execute("COMMIT")
        except (apsw.FullError, apsw.IOError, apsw.ConstraintError, ValueError, KeyError) as error:
            has_no_room = is_full(error, db.system_errno)
            if isinstance(error, apsw.IOError) and not has_no_room:
                raise
            if db.in_transaction:  # a full disk has undone it already
                db.execute("ROLLBACK")
            return JournalFullError(f"no room on the disk: {error}") if has_no_room else error
        return None

    def _not_carried_out(self, command: Command, error: Exception) -> None:
        if not isinstance(error, JournalFullError) or not command.patient:
            command.error = error
        elif self._reserve.is_disk_full() or self._transact_beyond_quota(command):
            command.waits_for_room = True
            self._waiting_for_room.append(command)

    def _transact_beyond_quota(self, command: Command) -> Exception | None:
        """The disk has room, the quota has none; and this command is one of those that make room in it."""
        db = self._file.connection
        most = db.pragma("max_page_count")
        db.pragma("max_page_count", self._most_pages + BEYOND_QUOTA_PAGES)
        try:
            return self._transact([command])
        finally:
            db.pragma("max_page_count", most)

    def _note_log_pages(self, _connection: apsw.Connection, _database: str, pages: int) -> int:
        self._log_pages = pages
        self._log_file_pages = max(self._log_file_pages, pages)
        return apsw.SQLITE_OK

    def _checkpoint(self, mode: int = apsw.SQLITE_CHECKPOINT_PASSIVE) -> bool:
        """Work the log into the file, so that it starts anew. False: there was nothing in it, or no room."""
        if not self._log_pages and mode == apsw.SQLITE_CHECKPOINT_PASSIVE:
            return False
        try:
            self._file.connection.wal_checkpoint(mode=mode)
        except (apsw.FullError, apsw.IOError) as error:
            if not is_full(error, self._file.connection.system_errno):
                raise
            return False
        self._log_pages = 0
        return True

    def _make_room(self) -> bool:
        """On a full disk: give the reserve up, for the log to be worked into the file. False: that changed nothing."""
        if not self._reserve.is_disk_full():
            return False
        self._note_full_disk("there is no room left on it")
        is_given_up = self._reserve.give_up()
        return self._checkpoint() or is_given_up

    def _note_full_disk(self, reason: str) -> None:
        """Once, until there is room again."""
        self._file.is_short_of_disk = False
        if self._is_disk_full:
            return
        self._is_disk_full = True
        free_mb = round(self._reserve.free_bytes() / 1e6, 1)
        hint = "the least urgent events are shed, each with a row, until there is room again"
        log.error("journal.disk_full", reason=reason, free_mb=free_mb, hint=hint)
        message = f"{free_mb} MB are free on the disk of {self._path.parent}: {reason}; {hint}"
        self._waiting_for_room.append(Command(lambda file: file.alarm("disk_full", message), None))

    def _keep_house(self, is_quiet: bool) -> None:
        """What may wait until nobody waits for it, but not for ever."""
        now_s = time.monotonic()
        if not is_quiet and now_s - self._looked_s < (self._patience_s() or QUIET_S):
            return
        self._looked_s = now_s
        self._look_at_disk()
        self._try_again()
        if is_quiet:
            self._tidy_up()

    def _look_at_disk(self) -> None:
        self._reserve.make()
        if self._is_disk_full and self._reserve.has_recovered:
            self._is_disk_full = False
            log.info("journal.disk_ok", free_mb=round(self._reserve.free_bytes() / 1e6, 1))

    def _try_again(self) -> None:
        waiting, self._waiting_for_room = self._waiting_for_room, []
        if waiting:
            for command in waiting:
                command.waits_for_room = False
            self._carry_out(waiting)
            self.commands.answer(waiting)
            self.commands.say(self.has_outbox)

    def _tidy_up(self) -> None:
        """A large log is made small, but not on a full disk, where its room would be lost to others."""
        self._is_untidy = False
        is_large = self._log_file_pages >= LARGE_LOG_PAGES and not self._is_disk_full
        if is_large and self._checkpoint(apsw.SQLITE_CHECKPOINT_TRUNCATE):
            self._log_file_pages = 0

    def _break(self, group: Iterable[Command], error: Exception) -> None:
        """Nothing more is written, not even what SQLite would at the close: the next start reads what is there."""
        if is_corruption(error):
            suspect(self._path, str(error))
        broken = JournalError(f"the journal failed: {error}")
        self.commands.fail([self.failed], broken)
        self.commands.end([*group, *self._waiting_for_room], broken)
        with suppress(apsw.Error):
            close_as_it_is(self._file.connection)
