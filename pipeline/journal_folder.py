"""The folder and the file of the journal: that they are ours alone, and that only one daemon uses them."""

import errno
import fcntl
import os
import pwd
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pipeline.journal_errors import JournalError

_FLAGS = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_MODE = 0o600
_WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH
_IN_WORDS = {
    errno.ELOOP: "is a symbolic link; put the file itself there, or let state_dir name the folder it is in",
    errno.EISDIR: "is a folder; move it away",
}


@contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Make the folder if it is not there, for its owner alone, and keep every other daemon out of it. Raises
    JournalError."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _check_folder(folder)
        lock = _open(folder / "lock")
    except OSError as error:
        raise _explained(folder, error) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise JournalError(f"{folder}: another lva is running on this state folder") from None
    try:
        yield
    finally:
        os.close(lock)


def claim_file(file: Path) -> None:
    """Make the file, or see that it is a plain one of ours that no other user may write, and let none read it.
    SQLite's other files get its mode and owner. Raises JournalError."""
    try:
        opened = _open(file)
        try:
            _check_file(file, os.fstat(opened))
            os.fchmod(opened, _MODE)
        finally:
            os.close(opened)
    except OSError as error:
        raise _explained(file, error) from error


def sync_names(folder: Path) -> None:
    """Those of the files in it, and the folder's own where its parent can be read. SQLite does the first when it has
    made a file, but does not look whether that succeeded. Raises OSError."""
    _sync(folder)
    with suppress(PermissionError):
        _sync(folder.parent)


def _sync(folder: Path) -> None:
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def _open(file: Path) -> int:
    """What root makes in another user's folder is that user's, who could not use it otherwise."""
    opened = os.open(file, _FLAGS, _MODE)
    owner = file.parent.stat()
    if os.geteuid() == 0 and os.fstat(opened).st_uid == 0 != owner.st_uid:
        os.fchown(opened, owner.st_uid, owner.st_gid)
    return opened


def _check_folder(folder: Path) -> None:
    """Who may write in it could put another journal in the place of ours; but not where it is sticky, as /tmp is."""
    mode = folder.stat().st_mode
    if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
        raise JournalError(f"{folder}: every user may write in it; run: chmod o-w {folder}")


def _check_file(file: Path, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise JournalError(f"{file}: is no plain file; move it away")
    ours = {os.geteuid()} if os.geteuid() else {0, file.parent.stat().st_uid}
    if found.st_uid not in ours:
        owner, us = _name_of(found.st_uid), _name_of(os.geteuid())
        raise JournalError(f"{file}: belongs to {owner}, and lva runs as {us}; run: sudo chown {us} {file}")
    if found.st_mode & _WRITABLE_BY_OTHERS:
        raise JournalError(f"{file}: other users may write it; if none has, run: chmod 600 {file}")


def _name_of(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _explained(path: Path, error: OSError) -> JournalError:
    return JournalError(f"{error.filename or path}: {_IN_WORDS.get(error.errno or 0, error.strerror)}")
