"""What can be wrong with a journal, and what SQLite's errors mean for it.

JournalError            the journal can't be used; nothing can be accepted
├── JournalDamagedError     its file is damaged: what can be read of it is salvaged at the next start
├── JournalNewerError       a newer lva has written it; this one does not know what it would break
└── JournalFullError        there is no room for this; what was accepted before is safe
"""

import errno

import apsw


class JournalError(Exception):
    """The journal can't be used; nothing can be accepted."""


class JournalDamagedError(JournalError):
    """The file is not what was written to it."""


class JournalNewerError(JournalError):
    """The file was written by a newer lva."""


class JournalFullError(JournalError):
    """There is no room left, not even for the row that would say so. What was accepted before is safe."""


_UNREADABLE = frozenset(
    {apsw.SQLITE_IOERR_READ, apsw.SQLITE_IOERR_SHORT_READ, apsw.SQLITE_IOERR_CORRUPTFS, apsw.SQLITE_IOERR_DATA}
)
_NO_DAMAGE = (
    apsw.BusyError,
    apsw.CantOpenError,
    apsw.FullError,
    apsw.IOError,
    apsw.LockedError,
    apsw.NoMemError,
    apsw.PermissionsError,
)
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})


def is_damage(error: Exception) -> bool:
    """Of an error at opening, where SQL that is known to be right is run: all that is not about the machine."""
    if isinstance(error, apsw.IOError):
        return _what_exactly(error) in _UNREADABLE
    return isinstance(error, apsw.Error | UnicodeDecodeError) and not isinstance(error, _NO_DAMAGE)


def is_corruption(error: Exception) -> bool:
    """Of an error at work. A header may also say, wrongly, that the file must not be written."""
    is_unreadable = isinstance(error, apsw.IOError) and _what_exactly(error) in _UNREADABLE
    return is_unreadable or isinstance(error, apsw.CorruptError | apsw.NotADBError | apsw.ReadOnlyError)


def is_full(error: Exception, system_errno: int) -> bool:
    """Whether there was no room, of the quota or of the disk. `system_errno` is what SQLite was told last."""
    if isinstance(error, apsw.IOError):
        return _what_exactly(error) == apsw.SQLITE_IOERR_WRITE and system_errno in _NO_ROOM
    return isinstance(error, apsw.FullError)


def _what_exactly(error: apsw.IOError) -> int:
    """SQLite's extended result code."""
    return int(getattr(error, "extendedresult", 0))
