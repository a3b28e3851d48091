"""Which events have no outcome yet, and which of them a worker has."""

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from uuid import UUID

from pipeline.asking import Asking


class OpenEvents:
    """The events of this run, from when the journal has them until it has their outcome."""

    def __init__(self) -> None:
        self._open: set[UUID] = set()
        self._held: set[UUID] = set()
        self._ended = asyncio.Event()
        self.asking = Asking()

    @property
    def count(self) -> int:
        return len(self._open)

    @property
    def held(self) -> frozenset[UUID]:
        """In the hands of a worker: from when their turn came until they ended, or wait again."""
        return frozenset(self._held)

    def add(self, event_id: UUID) -> None:
        self._open.add(event_id)

    def end(self, ids: Iterable[UUID]) -> None:
        ended = set(ids)
        self._open -= ended
        if ended:
            self._ended.set()

    @contextmanager
    def hold(self, ids: Iterable[UUID]) -> Iterator[None]:
        """A worker has them while the body runs. No event is ever in two hands: each leaves the queue once."""
        held = set(ids)
        self._held |= held
        try:
            yield
        finally:
            self._held -= held

    async def wait_none(self, patience_s: float) -> bool:
        """Wait until all have ended; False if none ended for patience_s."""
        while self._open:
            self._ended.clear()
            try:
                async with asyncio.timeout(patience_s):
                    await self._ended.wait()
            except TimeoutError:
                return False
        return True
