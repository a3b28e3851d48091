"""Case 54: the daemon has no file descriptor left. What it holds goes on; what needs a new one waits until there is
one; the journal stays whole."""

import asyncio
import itertools
import resource
from pathlib import Path
from typing import Any

import apsw
import asyncpg
import pytest

from tests.daemon.test_http_surface import ask, free_port
from tests.daemon.test_run import WAIT_S, a_config
from tests.faults.running import Running, running

FEW = 64
"""As `ulimit -n 64`: enough for one camera and a database."""
ENOUGH = 4096
WITH_FEW = ("sh", "-c", f'ulimit -S -n {FEW}; exec "$0" "$@"')
LIVE: dict[str, Any] = {"pace": "realtime", "loop": True, "retry_s": 0.2, "retry_max_s": 0.5}
SEVERAL_TRIES_S = 3.0
RULES = "drain_s = 10\n[triggers.camera_down]\nafter_s = 0\n"


def limit_files(daemon: Running, count: int) -> None:
    """From now on, for files that it opens."""
    resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (count, ENOUGH))


def first_free_file(daemon: Running) -> int:
    """With this as its limit, it has as many as it may."""
    held = {int(entry.name) for entry in Path(f"/proc/{daemon.pid}/fd").iterdir()}
    return next(number for number in itertools.count() if number not in held)


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
    async with running(config, before=WITH_FEW) as daemon:
        await daemon.logged("event.analyzed")
        limit_files(daemon, 0)
        daemon.kill_children()
        await cut_connections(connection)
        await daemon.logged("camera.down")
        await daemon.logged("event.accepted", lambda line: line["kind"] == "camera_down")
        seen = await daemon.logged("upload.interrupted")
        limit_files(daemon, first_free_file(daemon))
        await asyncio.sleep(SEVERAL_TRIES_S)
        assert daemon.children() == []
        with pytest.raises((OSError, IndexError)):  # nobody can be let in
            async with asyncio.timeout(SEVERAL_TRIES_S):
                await ask(port, "/healthz")
        limit_files(daemon, FEW)
        for event in ("camera.up", "upload.resumed", "event.analyzed"):
            await daemon.logged(event, since=seen)
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
