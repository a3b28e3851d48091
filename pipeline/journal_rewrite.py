"""The write-ahead log is written once more, byte for byte, before SQLite takes what is in it.

A sync that fails is told once. From then on Linux takes for written what it could not write: every process goes on
reading it, the next sync succeeds, and after a power cut it is not there. At the start after such an error SQLite
would work pages of a log that is in memory alone into the file, and a power cut in the middle of that would leave a
file that no log repairs. What is written again is synced again, or fails again.
"""

from pathlib import Path

import apsw

_AT_ONCE_BYTES = 65536
"""As much as SQLite itself writes: from 128 KB on its own function fails (os_unix.c, seekAndWriteFd)."""


def write_again(log: Path, vfs: str | None) -> None:
    """Takes no room. Raises apsw.Error, and OSError."""
    size = log.stat().st_size if log.exists() else 0
    if not size:
        return
    file = apsw.VFSFile(vfs or "", str(log), [apsw.SQLITE_OPEN_WAL | apsw.SQLITE_OPEN_READWRITE, 0])
    try:
        for offset in range(0, size, _AT_ONCE_BYTES):
            file.xWrite(file.xRead(min(_AT_ONCE_BYTES, size - offset), offset), offset)
        file.xSync(apsw.SQLITE_SYNC_FULL)
    finally:
        file.xClose()
