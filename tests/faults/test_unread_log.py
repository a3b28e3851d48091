"""Case 55: nobody reads the daemon's log, as when journald hangs. Everything but the log goes on."""

import array
import asyncio
import fcntl
import signal
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import asyncpg

from tests.daemon.test_run import WAIT_S, a_config, logged

CHATTY = "drain_s = 5\n[log]\nlevel = 'debug'\nsummary_s = 0.01\n"
"""A hundred lines a second: a pipe is full after a moment."""
HALF_A_PIPE = 32 * 1024
LIVE: dict[str, Any] = {"pace": "realtime", "loop": True}


@contextmanager
def an_unread_daemon(folder: Path, dsn: str) -> "Iterator[subprocess.Popen[bytes]]":
    config = a_config(folder, CHATTY, **LIVE)
    config.write_text(f'{config.read_text()}[database]\nurl = "{dsn}"\n')
    command = [sys.executable, "-m", "daemon", "run", "--config", str(config)]
    daemon = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        yield daemon
    finally:
        daemon.kill()
        daemon.communicate()


def unread_bytes(pipe: IO[bytes] | None) -> int:
    assert pipe is not None
    held = array.array("i", [0])
    fcntl.ioctl(pipe, termios.FIONREAD, held)
    return held[0]


async def until_full(daemon: "subprocess.Popen[bytes]") -> None:
    """The pipe takes no more, though something is written all the time: from then on, whoever writes to it waits."""
    async with asyncio.timeout(WAIT_S):
        before, held = 0, unread_bytes(daemon.stdout)
        while held < HALF_A_PIPE or held != before:
            await asyncio.sleep(1.0)
            before, held = held, unread_bytes(daemon.stdout)
    assert daemon.poll() is None


async def until_ended_since(connection: asyncpg.Connection, moment: Any, count: int) -> None:
    """So many events that were accepted after this moment have their outcome in the database."""
    query = "SELECT count(*) FROM events JOIN outcomes USING (event_id) WHERE accepted_at > $1"
    async with asyncio.timeout(2 * WAIT_S):
        while await connection.fetchval(query, moment) < count:  # noqa: ASYNC110 - another process fills the table
            await asyncio.sleep(0.2)


async def test_events_go_on_and_the_daemon_ends_in_time_though_nobody_reads_its_log(
    tmp_path: Path, database: str, connection: asyncpg.Connection
) -> None:
    with an_unread_daemon(tmp_path, database) as daemon:
        await until_full(daemon)
        await until_ended_since(connection, await connection.fetchval("SELECT now()"), count=5)
        daemon.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(daemon.wait, WAIT_S) == 0
    assert await connection.fetchval("SELECT count(*) FROM open_events") == 0


async def test_what_waited_to_be_read_is_there_whole_once_somebody_reads(tmp_path: Path, database: str) -> None:
    with an_unread_daemon(tmp_path, database) as daemon:
        await until_full(daemon)
        daemon.send_signal(signal.SIGTERM)
        assert daemon.stdout is not None
        lines = logged((await asyncio.to_thread(daemon.stdout.read)).decode())
        assert await asyncio.to_thread(daemon.wait, WAIT_S) == 0
    assert {"daemon.ready", "camera.up", "daemon.stopping", "daemon.stopped"} <= {line["event"] for line in lines}
    assert all(line["level"] in ("debug", "info") for line in lines)
