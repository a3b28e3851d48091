"""A disk that can lose its power: what SQLite synced is there afterwards; of the rest, whatever luck left.

SQLite reads and writes through it as a VFS, to real files in a real folder. Beside them the disk keeps what a power
cut would leave: the bytes of each file as of its last sync, what was changed since, and the same for the names in the
folder. A cut applies a random part of those changes, in order: all, none, some, or some sectors of one.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

import apsw

SECTOR_BYTES = 512
"""What a disk writes whole, or not at all."""

TORN_SHARE = 0.2
"""Of the writes that a cut leaves, so many are there only in part."""

_SYNCED_WITH_THEIR_FOLDER = apsw.SQLITE_OPEN_MAIN_JOURNAL | apsw.SQLITE_OPEN_SUPER_JOURNAL | apsw.SQLITE_OPEN_WAL
"""At its first sync of such a new file SQLite syncs the folder too (os_unix.c, UNIXFILE_DIRSYNC); no other."""

BeforeChange = Callable[["Disk", str], None]

_numbers = count(1)


@dataclass(frozen=True, slots=True)
class Write:
    offset: int
    data: bytes = field(repr=False)

    def on(self, content: bytearray) -> None:
        if len(content) < self.offset:
            content.extend(bytes(self.offset - len(content)))
        content[self.offset : self.offset + len(self.data)] = self.data

    def torn(self, random: Random) -> list["Write"]:
        """Some of its sectors."""
        first = self.offset // SECTOR_BYTES * SECTOR_BYTES
        edges = [self.offset, *range(first + SECTOR_BYTES, self.offset + len(self.data), SECTOR_BYTES)]
        sectors = [
            Write(edge, self.data[edge - self.offset : end - self.offset])
            for edge, end in zip(edges, [*edges[1:], self.offset + len(self.data)], strict=True)
        ]
        return random.sample(sectors, random.randint(0, len(sectors) - 1))


@dataclass(frozen=True, slots=True)
class Truncation:
    size: int

    def on(self, content: bytearray) -> None:
        del content[self.size :]
        content.extend(bytes(self.size - len(content)))


Change = Write | Truncation


@dataclass(eq=False, slots=True)
class _File:
    """The bytes of one file, whatever its name is."""

    synced: bytes = b""
    unsynced: list[Change] = field(default_factory=list)

    def sync(self) -> None:
        self.synced = _changed(self.synced, self.unsynced)
        self.unsynced = []

    def lose(self, luck: Random) -> None:
        self.synced = _changed(self.synced, _luck(tuple(self.unsynced), luck))
        self.unsynced = []


@dataclass(frozen=True, slots=True)
class _Naming:
    """A name that was given to a file, or taken away."""

    name: str
    file: _File | None


@dataclass(frozen=True, slots=True)
class DiskState:
    """All that the disk has and was told, at one moment."""

    names: dict[str, _File]
    namings: tuple[_Naming, ...]
    contents: dict[_File, tuple[bytes, tuple[Change, ...]]]

    def cut(self, random: Random) -> dict[str, bytes]:
        """The files after a power cut, by name."""
        return {
            name: _changed(synced, _luck(unsynced, random))
            for name, file in _renamed(self.names, _some(self.namings, random)).items()
            for synced, unsynced in [self.contents[file]]
        }

    def whole(self) -> dict[str, bytes]:
        """The files as every process sees them: what is left when only the daemon dies."""
        return {name: _changed(*self.contents[file]) for name, file in _renamed(self.names, self.namings).items()}


class Disk(apsw.VFS):
    """`before_change` is called before anything changes, in SQLite's thread, with the disk and what will be done."""

    def __init__(self, name: str, before_change: BeforeChange, holds: Mapping[str, bytes] | None) -> None:
        super().__init__(name, base="")
        self.name = name
        self._before_change = before_change
        self._holds = holds
        self._syncs_left: int | None = None
        self._luck = Random()
        self._names: dict[str, _File] = {}
        self._namings: list[_Naming] = []

    def state(self) -> DiskState:
        files = {*self._names.values(), *(naming.file for naming in self._namings if naming.file)}
        contents = {file: (file.synced, tuple(file.unsynced)) for file in files}
        return DiskState(dict(self._names), tuple(self._namings), contents)

    def fail_at_sync(self, number: int, luck: Random) -> None:
        """That one of the syncs to come fails, and some of what it was to write is lost although all see it."""
        self._syncs_left, self._luck = number, luck

    def sync(self, file: _File) -> None:
        if self._syncs_left is not None:
            self._syncs_left -= 1
            if self._syncs_left == 0:
                file.lose(self._luck)
                raise apsw.IOError("disk I/O error")
        file.sync()

    def changing(self, what: str) -> None:
        self._before_change(self, what)

    def sync_names(self) -> None:
        self._names = _renamed(self._names, self._namings)
        self._namings = []

    def xOpen(self, name: Any, flags: list[int]) -> Any:  # noqa: N802 - SQLite's name, as all of these
        if name is None:  # a temporary file: nothing that a cut could leave
            return super().xOpen(name, flags)
        path = Path(name.filename() if isinstance(name, apsw.URIFilename) else name)
        if not self._names:
            self._look_around(path)
        file = _renamed(self._names, self._namings).get(path.name)
        return _OpenFile(self, path, flags, file or self._new(path.name))

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: N802
        self.changing("delete")
        super().xDelete(filename, syncdir)
        self._namings.append(_Naming(Path(filename).name, None))
        if syncdir:
            self.sync_names()

    def _look_around(self, path: Path) -> None:
        """Files of the same name, but for its end, that are there from before this disk's time."""
        there = {file.name: file.read_bytes() for file in path.parent.glob(f"{path.stem}.*")}
        holds = there if self._holds is None else self._holds
        self._names = {name: _File(content) for name, content in holds.items() if content}

    def _new(self, name: str) -> _File:
        self.changing("create")
        file = _File()
        self._namings.append(_Naming(name, file))
        return file


class _OpenFile(apsw.VFSFile):
    def __init__(self, disk: Disk, path: Path, flags: list[int], file: _File) -> None:
        asked = flags[0]
        super().__init__("", str(path), flags)
        self._disk = disk
        self._file = file
        self._syncs_names = bool(asked & apsw.SQLITE_OPEN_CREATE and asked & _SYNCED_WITH_THEIR_FOLDER)

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802
        self._disk.changing(f"write {len(data)} at {offset}")
        super().xWrite(data, offset)
        self._file.unsynced.append(Write(offset, bytes(data)))

    def xTruncate(self, newsize: int) -> None:  # noqa: N802
        self._disk.changing(f"truncate to {newsize}")
        super().xTruncate(newsize)
        self._file.unsynced.append(Truncation(newsize))

    def xSync(self, flags: int) -> None:  # noqa: N802 - the real disk has not to: nobody cuts its power
        self._disk.changing("sync")
        self._disk.sync(self._file)
        if self._syncs_names:
            self._disk.sync_names()
            self._syncs_names = False


@contextmanager
def a_disk(
    before_change: BeforeChange = lambda _disk, _what: None, holds: Mapping[str, bytes] | None = None
) -> Iterator[Disk]:
    """A disk for `open_journal(…, vfs=disk.name)`. `holds` is what is on it, where that is not what all see."""
    disk = Disk(f"power-cut-{next(_numbers)}", before_change, holds)
    try:
        yield disk
    finally:
        disk.unregister()


def write_files(folder: Path, files: dict[str, bytes]) -> None:
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)


def _renamed(names: dict[str, _File], namings: Any) -> dict[str, _File]:
    after = dict(names)
    for naming in namings:
        if naming.file:
            after[naming.name] = naming.file
        else:
            after.pop(naming.name, None)
    return after


def _changed(content: bytes, changes: Any) -> bytes:
    if not changes:
        return content
    after = bytearray(content)
    for change in changes:
        change.on(after)
    return bytes(after)


def _some(items: tuple[Any, ...], random: Random) -> list[Any]:
    """A part of them, in order; often all or none, as that is what is most often left."""
    share = random.choice((0.0, 1.0, random.random()))
    return [item for item in items if random.random() < share]


def _luck(changes: tuple[Change, ...], random: Random) -> list[Change]:
    left: list[Change] = []
    for change in _some(changes, random):
        if isinstance(change, Write) and random.random() < TORN_SHARE:
            left += change.torn(random)
        else:
            left.append(change)
    return left
