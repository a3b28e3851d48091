"""One Postgres server out of the binaries that come with us: created, started, proved, stopped.

The package's own get_server() is not used: it takes any living process with the number in postmaster.pid for
the server, and after a power cut such numbers are reused. What counts here is a postmaster in our data
directory, and an answer to SELECT 1.
"""

import asyncio
import hashlib
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

import structlog

from daemon.postgres_programs import MAJOR, EmbeddedPostgresError, run_program
from pipeline.store import answers

SUPERUSER = "lva"
PORT = 5432
START_TIMEOUT_S = 120
STOP_TIMEOUT_S = 30
LOG_LIMIT_BYTES = 4 * 1024 * 1024
SOCKET_PATH_LIMIT = 100
"""Of 107 bytes that a unix socket's address may have."""

_CONFIGURATION = """\
# Written by lva at each start. Settings of your own: ALTER SYSTEM.
listen_addresses = ''
port = {port}
unix_socket_directories = {socket_dir}
unix_socket_permissions = 0700
max_connections = 20
shared_buffers = 16MB
io_method = sync
autovacuum_max_workers = 1
max_parallel_workers_per_gather = 0
max_logical_replication_workers = 0
wal_level = minimal
max_wal_senders = 0
min_wal_size = 32MB
max_wal_size = 128MB
timezone = UTC
log_timezone = UTC
log_checkpoints = off
log_error_verbosity = terse
log_min_error_statement = panic
"""
_POLL_S = 0.05

log = structlog.get_logger()


class PostgresServer:
    """The server of one directory: data in `home/18`, its socket and log beside it."""

    def __init__(self, home: Path) -> None:
        self.home = home.absolute()
        self.data = self.home / str(MAJOR)
        self.log_file = self.home / "postgres.log"
        self.socket_dir = _socket_dir(self.home)
        self.dsn = f"postgresql://{SUPERUSER}@/postgres?host={quote(str(self.socket_dir), safe='')}&port={PORT}"

    async def start(self) -> None:
        """Return when it answers; one that runs already is taken as it is. One caller at a time."""
        if await self._runs_already():
            return
        self._remove_stale_locks()
        if not self.data.exists():
            await self._create()
        self.bound_log()
        self._make_socket_dir()
        (self.data / "postgresql.conf").write_text(
            _CONFIGURATION.format(port=PORT, socket_dir=_quoted(self.socket_dir))
        )
        await self._run("pg_ctl", "start", "-w", "-t", str(START_TIMEOUT_S), "-D", str(MAJOR), "-l", self.log_file.name)
        if not await answers(self.dsn):
            raise EmbeddedPostgresError(f"started, but does not answer; see {self.log_file}")

    async def stop(self) -> None:
        """Let sessions go, and return when the server is down."""
        if self.pid() is None:
            return
        stop = ("pg_ctl", "stop", "-w", "-t", str(STOP_TIMEOUT_S), "-D", str(MAJOR), "-m")
        try:
            await self._run(*stop, "fast")
        except EmbeddedPostgresError:
            if self.pid() is not None:
                await self._run(*stop, "immediate")
        if self.socket_dir != self.home:
            with suppress(OSError):
                self.socket_dir.rmdir()

    def pid(self) -> int | None:
        """The living postmaster of this directory, or None whatever postmaster.pid says."""
        pid = _first_number(self.data / "postmaster.pid")
        return pid if pid and pid in self._processes() else None

    def bound_log(self) -> None:
        """Keep the log and the one before it small. The server appends, so its file may be cut short."""
        if self.log_file.exists() and self.log_file.stat().st_size > LOG_LIMIT_BYTES:
            shutil.copyfile(self.log_file, self.log_file.with_suffix(".log.1"))
            os.truncate(self.log_file, 0)

    async def _runs_already(self) -> bool:
        """Processes of a server that doesn't answer are starting, recovering, or on their way out: wait."""
        for _ in range(round(START_TIMEOUT_S / _POLL_S)):
            if await answers(self.dsn):
                return True
            if not self._processes():
                return False
            await asyncio.sleep(_POLL_S)
        raise EmbeddedPostgresError(f"a server runs in {self.data} and does not answer: processes {self._processes()}")

    def _remove_stale_locks(self) -> None:
        """Postgres takes any living process of the same user for the lock's owner; we know that none is."""
        for lock in (self.data / "postmaster.pid", self.socket_dir / f".s.PGSQL.{PORT}.lock"):
            pid = _first_number(lock)
            if pid and Path(f"/proc/{pid}").exists():
                log.warning("postgres.stale_lock", file=str(lock), pid=pid)
                lock.unlink()

    def _processes(self) -> list[int]:
        """Every process of a server in this data directory, by name and place: a number proves nothing."""
        return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit() and self._is_ours(entry)]

    def _is_ours(self, process: Path) -> bool:
        try:
            return (process / "comm").read_text().strip() == "postgres" and (process / "cwd").samefile(self.data)
        except OSError:
            return False

    async def _create(self) -> None:
        """A new data directory, under its name only once it is complete."""
        unfinished = self.home / f"{MAJOR}.new"
        if unfinished.exists():
            shutil.rmtree(unfinished)
        await self._run(
            "initdb",
            "-D",
            unfinished.name,
            "-U",
            SUPERUSER,
            "--auth=trust",
            "--encoding=UTF8",
            "--locale=C",
            "--no-instructions",
        )
        unfinished.rename(self.data)
        log.info("postgres.created", directory=str(self.data))

    def _make_socket_dir(self) -> None:
        """Where the path of `home` is too long for a socket: a directory that nobody else may enter."""
        if self.socket_dir == self.home:
            return
        self.socket_dir.mkdir(mode=0o700, exist_ok=True)
        owner = self.home.stat()
        if os.geteuid() == 0:
            os.chown(self.socket_dir, owner.st_uid, owner.st_gid, follow_symlinks=False)
        found = self.socket_dir.lstat()
        if self.socket_dir.is_symlink() or found.st_uid != owner.st_uid or found.st_mode & 0o077:
            raise EmbeddedPostgresError(f"{self.socket_dir} belongs to someone else")

    async def _run(self, program: str, *arguments: str) -> None:
        try:
            await run_program(self.home, program, *arguments)
        except EmbeddedPostgresError as error:
            raise EmbeddedPostgresError(f"{error}; see {self.log_file}") from None


def _socket_dir(home: Path) -> Path:
    fits = len(os.fsencode(home / f".s.PGSQL.{PORT}")) <= SOCKET_PATH_LIMIT
    if fits and "," not in str(home):  # which in a DSN parts one host from the next
        return home
    return Path(tempfile.gettempdir()) / f"lva-{hashlib.sha256(os.fsencode(home)).hexdigest()[:16]}"


def _quoted(directory: Path) -> str:
    """One element of a list setting: quoted as an identifier, and that as a string."""
    element = str(directory).replace('"', '""').replace("\\", "\\\\").replace("'", "''")
    return f"'\"{element}\"'"


def _first_number(file: Path) -> int | None:
    try:
        return int(file.read_text().split("\n", 1)[0])
    except (OSError, ValueError):
        return None
