"""Opening the journal: as it is, or as much of it as can be read."""

from pathlib import Path

import apsw

from pipeline.clock import Clock
from pipeline.journal_errors import JournalDamagedError, JournalError
from pipeline.journal_folder import claim_file, sync_names
from pipeline.journal_reserve import DiskReserve
from pipeline.journal_salvage import finish_salvage, forget_old_damage, salvage
from pipeline.journal_schema import close_as_it_is, connect


def open_sound(
    path: Path, quota_bytes: int, reserve: DiskReserve, clock: Clock, site: str, vfs: str | None
) -> apsw.Connection:
    """Reads the whole file, and more than once if it is damaged. Raises JournalError."""
    try:
        finish_salvage(path)
        claim_file(path)
        connection = _open(path, quota_bytes, reserve, clock, site, vfs)
        try:
            sync_names(path.parent)
        except OSError:
            close_as_it_is(connection)
            raise
        return connection
    except OSError as error:
        raise JournalError(f"{error.filename or path}: {error.strerror}") from error


def _open(
    path: Path, quota_bytes: int, reserve: DiskReserve, clock: Clock, site: str, vfs: str | None
) -> apsw.Connection:
    try:
        return connect(path, quota_bytes, vfs)
    except JournalDamagedError as damage:
        reserve.give_up()  # the new journal needs its room now
        salvage(path, str(damage), clock, site)
    forget_old_damage(path, quota_bytes)
    return connect(path, quota_bytes, vfs)
