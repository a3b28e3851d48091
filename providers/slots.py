"""How many pictures a provider has at the same time: a few, or one alone."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager


class Slots:
    """First come, first served: who waits for all of them is waited for by those who come later."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._free = asyncio.Semaphore(count)
        self._turn = asyncio.Lock()

    def one(self) -> AbstractAsyncContextManager[None]:
        return self._taken(1)

    def all(self) -> AbstractAsyncContextManager[None]:
        return self._taken(self._count)

    @asynccontextmanager
    async def _taken(self, count: int) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            async with self._turn:
                for _ in range(count):
                    await stack.enter_async_context(self._free)
            yield
