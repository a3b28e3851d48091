"""Which events may be asked about at the same time: any, or one that is under suspicion and no other."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Asking:
    """The daemon died while it asked about an event. Should it die again, it must be known by which: so that event
    is asked about while no other is."""

    def __init__(self) -> None:
        self._together = 0
        self._is_alone = False
        self._changed = asyncio.Event()

    @asynccontextmanager
    async def together(self) -> AsyncIterator[None]:
        """The body asks, and others may too; nobody does it alone."""
        while self._is_alone:
            await self._change()
        self._together += 1
        try:
            yield
        finally:
            self._together -= 1
            self._changed.set()

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """Only the body asks. From the wish on, no one else begins."""
        while self._is_alone:
            await self._change()
        self._is_alone = True
        try:
            while self._together:
                await self._change()
            yield
        finally:
            self._is_alone = False
            self._changed.set()

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()
