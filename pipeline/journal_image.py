"""A damaged journal as one file that can only be read: its pages, over them those of its write-ahead log, and a
first page that SQLite understands.

The first page has the header and the list of tables, without which SQLite reads nothing at all. Both are the same in
every journal: the header is always that of a new one, the list is where the journal's own can't be read.
"""

import os
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from itertools import count
from pathlib import Path

import apsw

from pipeline.journal_errors import JournalDamagedError
from pipeline.journal_log import WriteAheadLog
from pipeline.journal_schema import create, is_ours

_HEADER_BYTES = 100
_numbers = count(1)


@contextmanager
def open_image(journal: Path) -> Iterator[apsw.Connection]:
    """For reading alone, and without any lock. Nothing is written to the damaged files. Raises OSError, and
    JournalDamagedError where there is nothing in it that looks like a journal."""
    descriptor = os.open(journal, os.O_RDONLY | os.O_CLOEXEC)
    try:
        image = _Image(descriptor, WriteAheadLog.of(journal))
        vfs = _ImageVfs(f"lva-image-{next(_numbers)}", image)
        try:
            with _connection(vfs.name, image) as connection:
                yield connection
        finally:
            vfs.unregister()
    finally:
        os.close(descriptor)


@contextmanager
def _connection(vfs: str, image: "_Image") -> Iterator[apsw.Connection]:
    """With its own list of tables, or else with that of a new journal. Raises JournalDamagedError."""
    new = _first_page_of_a_new_one(image.page_bytes)
    with ExitStack() as opened:
        for tables in (image.first_page(), new):
            image.use_first_page(new[:_HEADER_BYTES] + tables[_HEADER_BYTES:])
            connection = apsw.Connection("image", flags=apsw.SQLITE_OPEN_READONLY, vfs=vfs)
            opened.callback(connection.close)
            if _is_ours(connection):
                break
        else:
            raise JournalDamagedError("no page of it can be read")
        yield connection


def _is_ours(connection: apsw.Connection) -> bool:
    try:
        return is_ours(connection)
    except (apsw.Error, UnicodeDecodeError):
        return False


def _first_page_of_a_new_one(page_bytes: int) -> bytes:
    with closing(apsw.Connection(":memory:")) as fresh:
        fresh.pragma("page_size", page_bytes)
        create(fresh)
        return fresh.serialize("main")[:page_bytes]


class _Image:
    def __init__(self, descriptor: int, log: WriteAheadLog) -> None:
        self._file = descriptor
        self._log = log
        self._newest = log.committed()
        self._first = b""
        self._file_bytes = os.fstat(descriptor).st_size
        self.page_bytes = log.page_bytes
        pages = max((self._file_bytes // self.page_bytes, *self._newest))
        self.size = pages * self.page_bytes

    def first_page(self) -> bytes:
        return self._page(1)

    def use_first_page(self, page: bytes) -> None:
        """In it, as of a database whose number of pages is that of the file (bytes 24 and 92 differ)."""
        self._first = page[:24] + b"\0\0\0\1" + page[28:92] + b"\0\0\0\0" + page[96:]

    def read(self, length: int, offset: int) -> bytes:
        number, start = divmod(offset, self.page_bytes)
        data = b""
        while len(data) < start + length:
            data += self._first if number == 0 else self._page(number + 1)
            number += 1
        return data[start : start + length]

    def _page(self, number: int) -> bytes:
        """All zero where the disk gives nothing: a page that SQLite finds damaged."""
        if number in self._newest:
            at = self._newest[number]
            return self._log.content[at : at + self.page_bytes]
        try:
            page = os.pread(self._file, self.page_bytes, (number - 1) * self.page_bytes)
        except OSError:
            page = b""
        return page.ljust(self.page_bytes, b"\0")


class _ImageVfs(apsw.VFS):
    def __init__(self, name: str, image: _Image) -> None:
        super().__init__(name, base="")
        self.name = name
        self._image = image

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> "_ImageFile":  # noqa: N802 - SQLite's name, as all of these
        return _ImageFile(self._image)

    def xAccess(self, path: str, flags: int) -> bool:  # noqa: N802
        return False  # no journal of its own beside it

    def xFullPathname(self, name: str) -> str:  # noqa: N802
        return name


class _ImageFile(apsw.VFSFile):
    """What SQLite asks of a file that is only read. There is no file of SQLite's own behind it."""

    def __init__(self, image: _Image) -> None:
        self._image = image

    def xRead(self, amount: int, offset: int) -> bytes:  # noqa: N802
        return self._image.read(amount, offset)

    def xFileSize(self) -> int:  # noqa: N802
        return self._image.size

    def xFileControl(self, op: int, pointer: int) -> bool:  # noqa: N802
        return False

    def xDeviceCharacteristics(self) -> int:  # noqa: N802
        return 0

    def xSectorSize(self) -> int:  # noqa: N802
        return 4096

    def xLock(self, level: int) -> None:  # noqa: N802
        pass

    def xUnlock(self, level: int) -> None:  # noqa: N802
        pass

    def xClose(self) -> None:  # noqa: N802
        pass
