"""Calls to one server, within its rate and with second tries where they can help."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from aiolimiter import AsyncLimiter

from providers.base import Advice, Failure, ProviderError
from providers.budget import RetryBudget
from providers.tally import Tally

BASE_WAIT_S = 0.25
MAX_WAIT_S = 4.0


class Exchange(Protocol):
    async def exchange(self, method: str, path: str, body: object = None) -> dict[str, Any]: ...


class Calls:
    """One server's calls. Waits before a second try are random up to a doubling bound ("full jitter").

    There is no deadline in here: whoever asks about a picture bounds the whole of it.
    """

    def __init__(
        self,
        server: Exchange,
        *,
        max_attempts: int,
        budget: RetryBudget,
        rate_per_s: float | None = None,
        tally: Tally | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._server = server
        self._max_attempts = max_attempts
        self._budget = budget
        self._limiter = AsyncLimiter(1, 1 / rate_per_s) if rate_per_s else None
        self._tally = tally or Tally()
        self._sleep = sleep
        self._uniform = uniform

    async def post(self, path: str, body: object) -> dict[str, Any]:
        return await self._call("POST", path, body)

    async def get(self, path: str) -> dict[str, Any]:
        return await self._call("GET", path, None)

    async def _call(self, method: str, path: str, body: object) -> dict[str, Any]:
        """Raises the last try's error; but where that found nobody there, the first that says more."""
        attempt = 1
        told: ProviderError | None = None
        while True:
            if self._limiter is not None:
                await self._limiter.acquire()
            self._budget.called()
            try:
                return await self._server.exchange(method, path, body)
            except ProviderError as error:
                caught = error
            told = caught if told is None or caught.failure is not Failure.CONNECTION_ERROR else told
            if not self._may_try_again(told, attempt):
                raise told
            self._tally.retries += 1
            await self._sleep(self._uniform(0, min(BASE_WAIT_S * 2**attempt, MAX_WAIT_S)))
            attempt += 1

    def _may_try_again(self, error: ProviderError, attempt: int) -> bool:
        twice = min(2, self._max_attempts)
        most = {Advice.RETRY: self._max_attempts, Advice.RETRY_ONCE: twice, Advice.ALONE: twice}
        return attempt < most.get(error.advice, 1) and self._budget.take()
