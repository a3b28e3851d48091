"""glibc's allocator, told to give back what it is given. Of other C libraries nothing is asked. See mallopt(3)."""

import ctypes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
HEAPS = 2


def keep_few_heaps() -> None:
    """Each thread has one of its own otherwise, of which little ever comes back."""
    _set(M_ARENA_MAX, HEAPS)


def give_large_blocks_back() -> None:
    """To the system when they are freed; and what is free at the heap's end.

    Left alone, it raises both limits with each large block that it sees freed, until none of the blocks of a batch,
    which are of another size each time, goes back any more.
    """
    _set(M_MMAP_THRESHOLD, 4 * 2**20)
    _set(M_TRIM_THRESHOLD, 64 * 2**20)


def _set(option: int, value: int) -> None:
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        mallopt(option, value)
