"""The embedded Postgres of a state folder, shared by its users: the daemon and commands, at the same time.

Every user holds a shared lock; whoever leaves and can take it alone was the last, and stops the server. The
kernel drops the locks of a killed process, so a server that was left running is taken over by the next user.
"""

import asyncio
import fcntl
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Never

import structlog

from daemon.postgres_programs import MAJOR, EmbeddedPostgresError, owner_for_server, until_ended
from daemon.postgres_server import PostgresServer
from pipeline.store import DatabaseSettings

RESTART_FIRST_S = 1.0
RESTART_MAX_S = 60.0
LOG_CHECK_S = 60.0
_LOCK_POLL_S = 0.05

log = structlog.get_logger()


@asynccontextmanager
async def embedded_postgres(state_dir: Path, *, wait: bool = True) -> AsyncIterator["EmbeddedPostgres"]:
    """The folder's server, created if need be. With `wait` it answers before the body begins.

    Without, `supervise` starts it. The last user to leave stops it. Raises EmbeddedPostgresError, and
    PermissionError where the folder belongs to another user.
    """
    server = PostgresServer(await asyncio.to_thread(_make_home, state_dir))
    async with _locked(server.home / "in-use.lock", fcntl.LOCK_SH) as in_use:
        embedded = EmbeddedPostgres(server)
        try:
            if wait:
                await embedded.start()
            yield embedded
        finally:
            if _try_lock(in_use, fcntl.LOCK_EX):
                await _stop(server)


class EmbeddedPostgres:
    """A server that is in use. `dsn` is where it is, also before it runs."""

    def __init__(self, server: PostgresServer) -> None:
        self.dsn = server.dsn
        self.has_started = asyncio.Event()
        self._server = server

    async def start(self) -> None:
        """Return when it answers. Raises EmbeddedPostgresError."""
        async with _locked(self._server.home / "start.lock", fcntl.LOCK_EX):
            await self._server.start()
        self.has_started.set()

    async def supervise(self) -> Never:
        """Keep it running, for ever: start it now and whenever it has died, and keep its log small."""
        failures = 0
        while True:
            try:
                await self.start()
            except (EmbeddedPostgresError, OSError) as error:
                failures += 1
                retry_s = min(RESTART_MAX_S, RESTART_FIRST_S * 2.0 ** min(failures - 1, 16))
                log.error("postgres.failed", reason=str(error), retry_s=retry_s)
                await asyncio.sleep(retry_s)
                continue
            failures = 0
            await self._until_it_dies()
            log.warning("postgres.died", directory=str(self._server.data))

    async def _until_it_dies(self) -> None:
        while (pid := self._server.pid()) is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(LOG_CHECK_S):
                    await until_ended(pid)
            self._server.bound_log()


@asynccontextmanager
async def database_url(settings: DatabaseSettings, state_dir: Path) -> AsyncIterator[str]:
    """Where the database is: the configured one, or the embedded one, which runs while the body does."""
    if url := settings.url.get_secret_value():
        yield url
        return
    async with embedded_postgres(state_dir) as embedded:
        yield embedded.dsn


def has_embedded(state_dir: Path) -> bool:
    """Whether there is an embedded database yet."""
    return (state_dir / "postgres" / str(MAJOR)).exists()


async def _stop(server: PostgresServer) -> None:
    """A server that does not stop keeps nobody from leaving: the next user takes it over."""
    try:
        await server.stop()
    except EmbeddedPostgresError as error:
        log.warning("postgres.not_stopped", reason=str(error))


def _make_home(state_dir: Path) -> Path:
    """`state_dir/postgres`, for its owner only. Made by root in another user's folder it is that user's."""
    state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    home = state_dir / "postgres"
    if not home.exists():
        home.mkdir(mode=0o700, exist_ok=True)
        if os.geteuid() == 0:
            os.chown(home, *owner_for_server(state_dir))
    home.chmod(0o700)
    return home


@asynccontextmanager
async def _locked(file: Path, how: int) -> AsyncIterator[int]:
    """Hold a lock on the file. Asks again and again: a thread that waits in flock() can't be cancelled."""
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if os.geteuid() == 0:
            owner = file.parent.stat()
            os.fchown(descriptor, owner.st_uid, owner.st_gid)
        while not _try_lock(descriptor, how):  # noqa: ASYNC110 - nothing tells us when it is free
            await asyncio.sleep(_LOCK_POLL_S)
        yield descriptor
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int, how: int) -> bool:
    try:
        fcntl.flock(descriptor, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
