"""Case 54: the daemon has no file descriptor left. What it holds goes on; what needs a new one waits until there is
one; the journal stays whole."""

import asyncio
import itertools
import json
import os
import resource
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import apsw
import asyncpg
import pytest

from tests.daemon.test_http_surface import ask, free_port
from tests.daemon.test_run import WAIT_S, a_config

FEW = 64
"""As `ulimit -n 64`: enough for one camera and a database."""
ENOUGH = 4096
LIVE: dict[str, Any] = {"pace": "realtime", "loop": True, "retry_s": 0.2, "retry_max_s": 0.5}
SEVERAL_TRIES_S = 3.0
RULES = "drain_s = 10\n[triggers.camera_down]\nafter_s = 0\n"


class Daemon:
    """Its log is read all the time."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.lines: list[dict[str, Any]] = []
        self._grown = asyncio.Condition()

    async def read(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            async with self._grown:
                self.lines.append(json.loads(line))
                self._grown.notify_all()

    async def logged(self, event: str, condition: Callable[[dict[str, Any]], bool] = bool, since: int = 0) -> int:
        """How many lines there are when such a line has come after the first `since`."""
        async with asyncio.timeout(WAIT_S), self._grown:
            await self._grown.wait_for(
                lambda: any(line["event"] == event and condition(line) for line in self.lines[since:])
            )
        return len(self.lines)

    def limit_files(self, count: int) -> None:
        """From now on, for files that it opens."""
        resource.prlimit(self.process.pid, resource.RLIMIT_NOFILE, (count, ENOUGH))

    def first_free_file(self) -> int:
        """With this as its limit, it has as many as it may."""
        held = {int(entry.name) for entry in Path(f"/proc/{self.process.pid}/fd").iterdir()}
        return next(number for number in itertools.count() if number not in held)

    def children(self) -> list[int]:
        return [
            int(pid) for pid in Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        ]


@asynccontextmanager
async def a_daemon(config: Path) -> AsyncIterator[Daemon]:
    """Ended in good order after the body. It reports to a service manager, which takes a file each time."""
    few = f'ulimit -S -n {FEW}; exec "$0" "$@"'
    command = (sys.executable, "-m", "daemon", "run", "--config", str(config))
    told = os.environ | {"NOTIFY_SOCKET": str(config.with_name("notify"))}
    process = await asyncio.create_subprocess_exec(
        "sh", "-c", few, *command, stdout=asyncio.subprocess.PIPE, limit=2**20, env=told
    )
    daemon = Daemon(process)
    reading = asyncio.create_task(daemon.read())
    try:
        yield daemon
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(WAIT_S):
            await reading
            assert await process.wait() == 0
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def cut_connections(connection: asyncpg.Connection) -> None:
    """As a database that was restarted: the daemon has to connect anew."""
    query = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'lva'"
    assert await connection.fetch(f"{query} AND datname = current_database()")


async def test_without_a_free_descriptor_nothing_is_lost_and_all_comes_back(
    tmp_path: Path, database: str, connection: asyncpg.Connection
) -> None:
    port = free_port()
    config = a_config(tmp_path, f"{RULES}[http]\nport = {port}\n", **LIVE)
    config.write_text(f'{config.read_text()}[database]\nurl = "{database}"\n')
    async with a_daemon(config) as daemon:
        await daemon.logged("event.analyzed")
        daemon.limit_files(0)
        for child in daemon.children():
            os.kill(child, signal.SIGKILL)
        await cut_connections(connection)
        await daemon.logged("camera.down")
        await daemon.logged("event.accepted", lambda line: line["kind"] == "camera_down")
        seen = await daemon.logged("upload.interrupted")
        daemon.limit_files(daemon.first_free_file())
        await asyncio.sleep(SEVERAL_TRIES_S)
        assert daemon.children() == []
        with pytest.raises((OSError, IndexError)):  # nobody can be let in
            async with asyncio.timeout(SEVERAL_TRIES_S):
                await ask(port, "/healthz")
        daemon.limit_files(FEW)
        seen = await daemon.logged("camera.up", since=seen)
        await daemon.logged("upload.resumed", since=seen)
        await daemon.logged("event.analyzed", since=seen)
        async with asyncio.timeout(WAIT_S):
            assert (await ask(port, "/healthz")).status == 200
    accepted = {line["event_id"] for line in daemon.lines if line["event"] == "event.accepted"}
    rows = await connection.fetch("SELECT event_id::text, outcome FROM event_log")
    assert {row["event_id"] for row in rows} == accepted
    assert all(row["outcome"] for row in rows)
    assert whole(tmp_path / "state" / "journal.db")


def whole(journal: Path) -> bool:
    db = apsw.Connection(str(journal), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        return db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    finally:
        db.close()
