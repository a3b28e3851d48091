"""Room on the disk: how much the journal may take of it, and a reserve that is given up when there is none.

On a full disk SQLite can't even delete: the write-ahead log that a transaction goes through needs room itself. So a
file of real bytes lies beside the journal. When it is deleted, what waits can be uploaded and forgotten, which makes
room in the journal's own file; and until the reserve is there again, the journal does not grow.
"""

import os
from pathlib import Path

FULL_BYTES = 4 * 2**20
"""With less than this on the disk it is the disk that has no room, not the quota."""
_FILE = "reserve"


class DiskReserve:
    """`floor_bytes` are left to others: the journal grows only while more than that is free."""

    def __init__(self, folder: Path, reserve_bytes: int, floor_bytes: int) -> None:
        self._folder = folder
        self._file = folder / _FILE
        self._reserve_bytes = reserve_bytes
        self._floor_bytes = floor_bytes

    @property
    def is_whole(self) -> bool:
        try:
            return self._file.stat().st_size == self._reserve_bytes
        except FileNotFoundError:
            return self._reserve_bytes == 0

    def room_bytes(self) -> int:
        """By how much the journal may grow; less than nothing where others have taken too much already."""
        return self.free_bytes() - self._floor_bytes - (0 if self.is_whole else self._reserve_bytes)

    @property
    def has_recovered(self) -> bool:
        """Whole again, and with so much to spare that the next event does not end that."""
        return self.is_whole and self.room_bytes() >= self._floor_bytes / 4

    def free_bytes(self) -> int:
        """For those who are not root."""
        found = os.statvfs(self._folder)
        return found.f_bavail * found.f_frsize

    def is_disk_full(self) -> bool:
        return self.free_bytes() < FULL_BYTES

    def give_up(self) -> bool:
        """False if there was none."""
        try:
            self._file.unlink()
        except FileNotFoundError:
            return False
        return True

    def make(self) -> bool:
        """Have it whole, if the disk has room for it above the floor. False: not yet."""
        if self.is_whole:
            return True
        if self.room_bytes() < 0:
            return False
        try:
            self._allocate()
        except OSError:  # somebody else was quicker
            self.give_up()
            return False
        return True

    def _allocate(self) -> None:
        self.give_up()
        if self._reserve_bytes:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
            opened = os.open(self._file, flags, 0o600)
            try:
                os.posix_fallocate(opened, 0, self._reserve_bytes)
            finally:
                os.close(opened)
