"""SQLite's write-ahead log as bytes: what it holds, and whether all of it can have been read.

SQLite reads the log up to the first part whose checksum is wrong, and says nothing of what stands behind: after a
power cut that is the transaction which was not finished. But a transaction is only begun when the one before has
been synced. So where more than one commit stands behind the end, something was lost that had been safe.
The format: https://sqlite.org/fileformat2.html#the_write_ahead_log
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

PAGE_BYTES = 8192
"""Of a new journal. Pictures of some 60 KB are written about a fifth faster than in SQLite's 4 KB (`lva bench`)."""

_HEADER = struct.Struct(">8I")  # magic, version, page size, checkpoint number, two salts, two checksums
_SUMMED = 24  # bytes of it that the checksums are of
_FRAME = struct.Struct(">6I")  # page number, pages of the database after a commit or 0, two salts, two checksums
_MASK = 0xFFFFFFFF

Pair = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Frame:
    """One page as the log has it; `data_at` is its place in the file. `commit`: the last one of a transaction."""

    page: int
    commit: bool
    data_at: int
    checksum: Pair


@dataclass(frozen=True)
class WriteAheadLog:
    """All of it is in memory: it is small."""

    content: bytes = field(repr=False)
    page_bytes: int = PAGE_BYTES

    @classmethod
    def of(cls, journal: Path) -> "WriteAheadLog":
        """The one beside `journal`; an empty one if there is none. Raises OSError."""
        beside = journal.with_name(f"{journal.name}-wal")
        content = beside.read_bytes() if beside.exists() else b""
        log = cls(content)
        return cls(content, log._header[2] if log._header_is_whole else page_bytes_of(journal))

    @cached_property
    def frames(self) -> list[Frame]:
        """Those of the newest generation, by its salt; older ones may stand behind."""
        frames = list(self._all_frames())
        salt = self._header[4:6] if self._header_is_whole else next((salt for salt, _ in frames), None)
        return [frame for frame_salt, frame in frames if frame_salt == salt]

    @cached_property
    def last_commit(self) -> int:
        """How many frames there are up to the end of the last transaction."""
        return max((number for number, frame in enumerate(self.frames, 1) if frame.commit), default=0)

    def is_damaged(self, recovered: int) -> bool:
        """`recovered` is how many frames SQLite took."""
        behind = sum(frame.commit for frame in self.frames[recovered:])
        return behind > 1 or (behind > 0 and not self._header_is_whole)

    def has_last_page(self, journal_bytes: int) -> bool:
        """Whether it has the page in which a file of so many bytes ends."""
        return any(frame.page == journal_bytes // self.page_bytes + 1 for frame in self.frames)

    def committed(self) -> dict[int, int]:
        """For each page that the log has, where its newest committed image is.

        Of a sound log that is what SQLite would read. Of a damaged one it is all that ever was committed: most of
        it is not what is damaged.
        """
        whole = self._whole_commits()
        count = self.last_commit if self.is_damaged(whole) else whole
        return {frame.page: frame.data_at for frame in self.frames[:count]}

    def _all_frames(self) -> Iterator[tuple[Pair, Frame]]:
        """Each with its salt."""
        size = _FRAME.size + self.page_bytes
        for at in range(_HEADER.size, len(self.content) - size + 1, size):
            page, pages_after, salt_1, salt_2, *checksum = _FRAME.unpack_from(self.content, at)
            yield (salt_1, salt_2), Frame(page, pages_after > 0, at + _FRAME.size, (checksum[0], checksum[1]))

    @cached_property
    def _header(self) -> tuple[int, ...]:
        return _HEADER.unpack(self.content[: _HEADER.size].ljust(_HEADER.size, b"\0"))

    @cached_property
    def _header_is_whole(self) -> bool:
        return any(self._header) and self._checksum((0, 0), 0, _SUMMED) == self._header[6:8]

    def _whole_commits(self) -> int:
        """How many frames SQLite would take: up to the last commit before the first wrong checksum."""
        if not self._header_is_whole:
            return 0
        taken, checksum = 0, (self._header[6], self._header[7])
        for number, frame in enumerate(self.frames, 1):
            checksum = self._checksum(checksum, frame.data_at - _FRAME.size, 8)
            checksum = self._checksum(checksum, frame.data_at, self.page_bytes)
            if checksum != frame.checksum:
                break
            taken = number if frame.commit else taken
        return taken

    def _checksum(self, before: Pair, start: int, length: int) -> Pair:
        order = ">" if self._header[0] & 1 else "<"
        words = struct.unpack_from(f"{order}{length // 4}I", self.content, start)
        first, second = before
        for even, odd in zip(words[::2], words[1::2], strict=True):
            first = (first + even + second) & _MASK
            second = (second + odd + first) & _MASK
        return first, second


def page_bytes_of(journal: Path) -> int:
    """As the header of the file has it, or what a new one would get where that can't be."""
    with journal.open("rb") as file:
        header = file.read(18)
    size = int.from_bytes(header[16:18])
    size = 65536 if size == 1 else size
    return size if size >= 512 and size & (size - 1) == 0 else PAGE_BYTES
