"""The embedded Postgres: shared, adopted, recovered, and gone when nobody uses it."""

import asyncio
import os
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest

from daemon.embedded import embedded_postgres, has_embedded
from daemon.postgres_programs import EmbeddedPostgresError, owner_for_server
from daemon.postgres_server import PostgresServer
from pipeline.store import answers

ROOT = Path(__file__).parents[2]
NOBODY = 65534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="changes users")


@pytest.fixture
def new_state_dir() -> Iterator[Path]:
    """A short path that does not exist yet: a socket's address may have 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="lva-") as directory:
        path = Path(directory) / "state"
        yield path
        for process in processes_in(path):
            os.kill(process, signal.SIGKILL)


@pytest.fixture(scope="module")
def used_state_dir() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="lva-") as directory:
        yield Path(directory) / "state"


@pytest.fixture
async def state_dir(used_state_dir: Path) -> AsyncIterator[Path]:
    """One where there was a server before, as it takes seconds to make one."""
    yield used_state_dir
    await kill_all(used_state_dir)


def processes_in(state_dir: Path) -> list[int]:
    return PostgresServer(state_dir / "postgres")._processes()


def pid_of(state_dir: Path) -> int | None:
    return PostgresServer(state_dir / "postgres").pid()


async def kill_all(state_dir: Path) -> None:
    for process in processes_in(state_dir):
        os.kill(process, signal.SIGKILL)
    while processes_in(state_dir):  # noqa: ASYNC110 - they are not our children
        await asyncio.sleep(0.01)


async def until_it_answers(dsn: str) -> None:
    while not await answers(dsn):  # noqa: ASYNC110 - only asking tells
        await asyncio.sleep(0.02)


async def query(dsn: str, sql: str) -> object:
    connection = await asyncpg.connect(dsn)
    try:
        return await connection.fetchval(sql)
    finally:
        await connection.close()


@asynccontextmanager
async def another_user(state_dir: Path, *as_whom: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Another process that uses it; it leaves when its input is closed."""
    process = await asyncio.create_subprocess_exec(
        *as_whom, sys.executable, "-m", "tests.store.user_of_postgres", str(state_dir),
        cwd=ROOT, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout
    assert process.stdin
    while not (await process.stdout.readline()).startswith(b"postgresql://"):
        assert process.returncode is None
    try:
        yield process
    finally:
        process.stdin.close()
        await process.wait()


async def test_it_is_made_used_and_stopped_and_keeps_what_it_was_told(new_state_dir: Path) -> None:
    assert not has_embedded(new_state_dir)
    async with embedded_postgres(new_state_dir) as embedded:
        await query(embedded.dsn, "CREATE TABLE kept AS SELECT 7 AS number")
        assert await query(embedded.dsn, "SHOW fsync") == "on"
        assert await query(embedded.dsn, "SHOW synchronous_commit") == "on"
        assert await query(embedded.dsn, "SHOW listen_addresses") == ""
        assert await query(embedded.dsn, "SHOW server_encoding") == "UTF8"
    assert processes_in(new_state_dir) == []
    assert has_embedded(new_state_dir)
    async with embedded_postgres(new_state_dir) as embedded:
        assert await query(embedded.dsn, "SELECT number FROM kept") == 7


async def test_only_its_owner_can_reach_it(state_dir: Path) -> None:
    async with embedded_postgres(state_dir):
        for path in (state_dir, state_dir / "postgres", state_dir / "postgres" / ".s.PGSQL.5432"):
            assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0


async def test_whoever_leaves_last_stops_it(state_dir: Path) -> None:
    async with another_user(state_dir):
        async with embedded_postgres(state_dir) as embedded:
            pid = pid_of(state_dir)
            assert await answers(embedded.dsn)
        assert pid_of(state_dir) == pid
        assert await answers(embedded.dsn)
    assert processes_in(state_dir) == []


async def test_many_come_and_go_at_once(state_dir: Path) -> None:
    async def use() -> None:
        async with embedded_postgres(state_dir) as embedded:
            assert await answers(embedded.dsn)

    await asyncio.gather(*(use() for _ in range(5)))
    assert processes_in(state_dir) == []


async def test_a_server_left_by_a_killed_user_is_taken_over(state_dir: Path) -> None:
    async with another_user(state_dir) as process:
        process.kill()
        await process.wait()
    pid = pid_of(state_dir)
    assert pid
    async with embedded_postgres(state_dir):
        assert pid_of(state_dir) == pid
    assert processes_in(state_dir) == []


async def test_a_server_that_is_still_starting_is_waited_for(state_dir: Path) -> None:
    async with embedded_postgres(state_dir) as embedded:
        pid = pid_of(state_dir)
        assert pid
        os.kill(pid, signal.SIGSTOP)
        starting = asyncio.create_task(embedded.start())
        await asyncio.wait([starting], timeout=0.3)
        assert not starting.done()
        os.kill(pid, signal.SIGCONT)
        await starting
        assert pid_of(state_dir) == pid


async def test_it_recovers_after_everything_was_killed(state_dir: Path) -> None:
    async with embedded_postgres(state_dir) as embedded:
        await query(embedded.dsn, "CREATE TABLE recovered AS SELECT 7 AS number")
        await kill_all(state_dir)
    async with embedded_postgres(state_dir) as embedded:
        assert await query(embedded.dsn, "SELECT number FROM recovered") == 7


@pytest.mark.parametrize("whose", ["ours", "of a server elsewhere"])
async def test_a_stale_pid_file_that_names_a_living_process_is_seen_through(
    state_dir: Path, postgres: str, whose: str
) -> None:
    """Case 61."""
    async with embedded_postgres(state_dir) as embedded:
        await kill_all(state_dir)
        elsewhere = await query(postgres, "SELECT pg_backend_pid()") if whose != "ours" else None
        number = str(os.getpid() if elsewhere is None else await postmaster_of(postgres))
        for lock in (state_dir / "postgres/18/postmaster.pid", state_dir / "postgres/.s.PGSQL.5432.lock"):
            first, *others = lock.read_text().split("\n")
            assert first != number
            lock.write_text("\n".join([number, *others]))
        assert pid_of(state_dir) is None
        assert not await answers(embedded.dsn)
        await embedded.start()
        assert await answers(embedded.dsn)


async def postmaster_of(dsn: str) -> int:
    directory = str(await query(dsn, "SHOW data_directory"))
    return int((Path(directory) / "postmaster.pid").read_text().split("\n")[0])


async def test_a_creation_that_was_cut_short_is_begun_again(new_state_dir: Path) -> None:
    unfinished = new_state_dir / "postgres" / "18.new"
    unfinished.mkdir(parents=True)
    (unfinished / "PG_VERSION").write_text("18\n")
    async with embedded_postgres(new_state_dir) as embedded:
        assert await answers(embedded.dsn)
    assert not unfinished.exists()


async def test_supervised_it_comes_back_when_it_dies(state_dir: Path) -> None:
    async with embedded_postgres(state_dir, wait=False) as embedded:
        task = asyncio.create_task(embedded.supervise())
        await until_it_answers(embedded.dsn)
        await kill_all(state_dir)
        await until_it_answers(embedded.dsn)
        task.cancel()
        await asyncio.wait([task])
    assert processes_in(state_dir) == []


async def test_its_log_does_not_grow_without_end(state_dir: Path) -> None:
    async with embedded_postgres(state_dir) as embedded:
        server = PostgresServer(state_dir / "postgres")
        with server.log_file.open("a") as log:
            log.truncate(5_000_000)
        server.bound_log()
        assert server.log_file.stat().st_size == 0
        with pytest.raises(asyncpg.UndefinedTableError):
            await query(embedded.dsn, "SELECT * FROM nothing")
        assert 0 < server.log_file.stat().st_size < 1000


@pytest.mark.parametrize("name", ["sp ace, 'q\"uotes $(touch oops) `x` \\n ü", "long" * 30])
async def test_any_path_will_do(new_state_dir: Path, name: str) -> None:
    async with embedded_postgres(new_state_dir / name) as embedded:
        assert await answers(embedded.dsn)
        assert await query(embedded.dsn, "SHOW data_directory") == str(new_state_dir / name / "postgres" / "18")
    assert not list(new_state_dir.rglob("oops"))
    socket_dir = PostgresServer(new_state_dir / name / "postgres").socket_dir
    assert not (socket_dir / ".s.PGSQL.5432").exists()
    assert new_state_dir in socket_dir.parents or not socket_dir.exists()


async def test_a_short_folder_for_the_socket_is_not_shared_with_strangers(new_state_dir: Path) -> None:
    server = PostgresServer(new_state_dir / ("long" * 30) / "postgres")
    assert server.socket_dir != server.home
    server.socket_dir.mkdir(mode=0o777)
    server.socket_dir.chmod(0o777)
    try:
        with pytest.raises(EmbeddedPostgresError, match="someone else"):
            async with embedded_postgres(new_state_dir / ("long" * 30)):
                pass
    finally:
        server.socket_dir.rmdir()


@as_root
async def test_an_ordinary_user_runs_it_as_himself(new_state_dir: Path) -> None:
    new_state_dir.mkdir()
    new_state_dir.parent.chmod(0o755)
    os.chown(new_state_dir, NOBODY, NOBODY)
    async with another_user(new_state_dir, "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--"):
        assert Path(f"/proc/{pid_of(new_state_dir)}").stat().st_uid == NOBODY
    assert processes_in(new_state_dir) == []


@as_root
async def test_root_in_a_users_folder_leaves_nothing_that_the_user_cant_use(new_state_dir: Path) -> None:
    new_state_dir.mkdir()
    new_state_dir.parent.chmod(0o755)
    os.chown(new_state_dir, NOBODY, NOBODY)
    async with embedded_postgres(new_state_dir):
        assert Path(f"/proc/{pid_of(new_state_dir)}").stat().st_uid == NOBODY
    assert {path.lstat().st_uid for path in new_state_dir.rglob("*")} == {NOBODY}


@as_root
def test_without_namespaces_root_lends_it_to_nobody_or_says_why_not(new_state_dir: Path) -> None:
    no_namespaces = ("false",)
    new_state_dir.mkdir()
    with pytest.raises(EmbeddedPostgresError, match="nobody can't reach"):
        owner_for_server(new_state_dir, no_namespaces)
    new_state_dir.parent.chmod(0o755)
    assert owner_for_server(new_state_dir, no_namespaces) == (NOBODY, NOBODY)
    assert owner_for_server(new_state_dir) == (0, 0)


def test_it_does_not_hold_on_to_the_pipes_of_who_started_it(state_dir: Path) -> None:
    """`lva events | head` must end although a server that others use was started by it."""
    command = [sys.executable, "-m", "tests.store.user_of_postgres", str(state_dir)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout
        while not process.stdout.readline().startswith(b"postgresql://"):
            assert process.poll() is None
        process.kill()
        assert process.stdout.read() == b""
    assert pid_of(state_dir)
