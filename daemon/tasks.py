"""Tasks that live beside something else, and never alone."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any


@asynccontextmanager
async def side_tasks(**jobs: Coroutine[Any, Any, Any]) -> AsyncIterator[tuple[asyncio.Task[Any], ...]]:
    """Run these beside the body and end them with it. One that fails ends the body too."""
    async with asyncio.TaskGroup() as group:
        tasks = tuple(group.create_task(job, name=name) for name, job in jobs.items())
        yield tasks
        for task in tasks:
            task.cancel()


async def after(started: asyncio.Event, job: Callable[[], Coroutine[Any, Any, Any]]) -> None:
    await started.wait()
    await job()


async def either(*jobs: Coroutine[Any, Any, Any]) -> None:
    """Until the first of them is done; the others are cancelled."""
    tasks = [asyncio.ensure_future(job) for job in jobs]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
