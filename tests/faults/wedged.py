"""The daemon, with two diseases that break out when asked for: SIGUSR1 blocks its event loop, as a bug would, and
SIGUSR2 lets its first worker end without a word."""

import asyncio
import signal
import time
from typing import Any

from daemon import app, core
from daemon.cli import main
from daemon.commands import run
from pipeline import worker

_serve = app.serve
_ends = asyncio.Event()


async def serve(*arguments: Any, **named: Any) -> bool:
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGUSR1, time.sleep, 600)
    loop.add_signal_handler(signal.SIGUSR2, _ends.set)
    return await _serve(*arguments, **named)


class Worker(worker.Worker):
    async def work(self) -> None:
        async with asyncio.TaskGroup() as group:
            working = group.create_task(super().work())
            ending = group.create_task(_ends.wait())
            await asyncio.wait({working, ending}, return_when=asyncio.FIRST_COMPLETED)
            working.cancel()
            ending.cancel()


if __name__ == "__main__":
    vars(run)["serve"] = serve
    vars(core)["Worker"] = Worker
    main()
