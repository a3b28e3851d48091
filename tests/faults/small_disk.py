"""A file system of a few megabytes in memory, which can be filled up and emptied again. Needs root: it is mounted."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

_CHUNK = bytes(64 * 1024)


@dataclass(frozen=True, slots=True)
class SmallDisk:
    path: Path

    def fill(self, leave_bytes: int = 0) -> None:
        """Let a file take whatever is free, but for so much."""
        with self._ballast.open("ab", buffering=0) as ballast:
            try:
                while self._free_bytes() > leave_bytes:
                    ballast.write(_CHUNK[: max(1, min(len(_CHUNK), self._free_bytes() - leave_bytes))])
            except OSError:
                return

    def empty(self) -> None:
        self._ballast.unlink()

    @property
    def _ballast(self) -> Path:
        return self.path / "ballast"

    def _free_bytes(self) -> int:
        told = os.statvfs(self.path)
        return told.f_bavail * told.f_bsize


@contextmanager
def a_small_disk(path: Path, size_mb: int) -> Iterator[SmallDisk]:
    """Mounted at `path`, which is made. Skips the test where nothing can be mounted."""
    path.mkdir()
    mounting = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size_mb}m,mode=0700", "tmpfs", str(path)], capture_output=True, text=True
    )
    if mounting.returncode:
        pytest.skip(f"a file system can't be mounted here: {mounting.stderr.strip()}")
    try:
        yield SmallDisk(path)
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)
