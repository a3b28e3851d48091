"""An uploader at work, with pauses short enough for a test."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

from pydantic import SecretStr

from pipeline.store import DatabaseSettings, open_store
from pipeline.uploader import Pauses, Uploader
from tests.store.outbox import MemoryOutbox

QUICK = Pauses(transient_first_s=0.01, transient_max_s=0.05, configuration_first_s=0.05, configuration_max_s=0.1)


def settings_for(dsn: str, **changes: Any) -> DatabaseSettings:
    return DatabaseSettings(url=SecretStr(dsn), **changes)


@asynccontextmanager
async def uploading(dsn: str, outbox: MemoryOutbox, **changes: Any) -> AsyncIterator[Uploader]:
    """Sends what is put in the outbox for as long as the body runs."""
    async with open_store(settings_for(dsn, **changes)) as store:
        uploader = Uploader(outbox, store, pauses=QUICK)
        task = asyncio.create_task(uploader.run(), name="uploader")
        try:
            yield uploader
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


async def in_trouble(uploader: Uploader, failures: int = 1) -> None:
    """Return when so many tries in a row have failed."""
    while uploader.state.failures < failures:  # noqa: ASYNC110 - a daemon's counter, no event
        await asyncio.sleep(0.01)
