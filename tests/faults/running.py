"""A daemon beside the test's own servers: its log and what it tells the service manager are read all the time."""

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from tests.daemon.test_run import WAIT_S
from tests.processes import children

Condition = Callable[[dict[str, Any]], bool]


def anything(_line: dict[str, Any]) -> bool:
    return True


class Running:
    """`lines` are those of its log, `strays` what it printed beside them, `notices` what it told its manager."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.lines: list[dict[str, Any]] = []
        self.strays: list[str] = []
        self.notices: list[str] = []
        self._grown = asyncio.Condition()

    @property
    def pid(self) -> int:
        return self.process.pid

    async def read(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            async with self._grown:
                self._hear(line.decode())
                self._grown.notify_all()

    def _hear(self, line: str) -> None:
        if line.startswith("{"):
            self.lines.append(json.loads(line))
        else:
            self.strays.append(line)

    async def logged(self, event: str, condition: Condition = anything, since: int = 0) -> int:
        """Return when such a line has come after the first `since` of them: how many there are then."""
        try:
            async with asyncio.timeout(WAIT_S), self._grown:
                await self._grown.wait_for(lambda: any(_is(line, event, condition) for line in self.lines[since:]))
        except TimeoutError:
            told = [line["event"] for line in self.lines[since:]]
            raise AssertionError(f"{event} did not come; {told[-20:]} {self.strays[-20:]}") from None
        return len(self.lines)

    def children(self) -> list[int]:
        return children(self.pid)

    def kill_children(self) -> None:
        for child in self.children():
            os.kill(child, signal.SIGKILL)

    async def end(self) -> None:
        """As the service manager ends it; it must take it well."""
        self.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(WAIT_S):
            assert await self.process.wait() == 0


def _is(line: dict[str, Any], event: str, condition: Condition) -> bool:
    return line["event"] == event and condition(line)


@asynccontextmanager
async def running(
    config: Path, module: str = "daemon", before: Sequence[str] = (), **environment: str
) -> AsyncIterator[Running]:
    """Until the end of the body, in good order. `before` is a command that runs the daemon's command."""
    address = config.with_name("notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as manager:
        manager.bind(str(address))
        process = await asyncio.create_subprocess_exec(
            *(*before, sys.executable, "-m", module, "run", "--config", str(config)),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            limit=2**20,
            env=os.environ | {"NOTIFY_SOCKET": str(address)} | environment,
        )
        daemon = Running(process)
        loop = asyncio.get_running_loop()
        loop.add_reader(manager, lambda: daemon.notices.append(manager.recv(4096).decode()))
        reading = asyncio.create_task(daemon.read())
        try:
            yield daemon
            await daemon.end()
            await reading
        finally:
            loop.remove_reader(manager)
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            reading.cancel()
