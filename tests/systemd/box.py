"""A computer of its own: a Debian with a real systemd as process 1, in a container without network."""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.processes import children

BOOT_S = 60
POLL_S = 0.2
ENVIRONMENT = ("PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8")


class Box:
    """Commands are run in it from outside, as root, by entering the namespaces of its process 1."""

    def __init__(self, tree: Path, console: Path, binds: Mapping[str, Path]) -> None:
        """`binds`: what of the host can be read inside, and where."""
        self.tree = tree
        self._console = console
        self._binds = [f"--bind-ro={outside}:{inside}" for inside, outside in binds.items()]
        self._nspawn: subprocess.Popen[bytes] | None = None

    def boot(self) -> None:
        """Return when everything that is enabled has been started."""
        self._nspawn = self._start_nspawn("--boot", "--private-network")
        eventually(lambda: self._is_up(), "the box has booted", BOOT_S)

    def run_before_boot(self, *command: str) -> None:
        """With the tree as root folder and no systemd."""
        nspawn = self._start_nspawn("--private-network", "--pipe", *command)
        assert nspawn.wait() == 0, f"{' '.join(command)}:\n{self._console.read_text()[-3000:]}"

    def power_off(self) -> None:
        """In order; a box that does not come to its end is made to."""
        if self._nspawn is not None:
            self.run("systemctl", "poweroff", "--no-block", check=False)
            try:
                self._nspawn.wait(BOOT_S)
            except subprocess.TimeoutExpired:
                self.pull_the_plug()
            self._nspawn = None

    def pull_the_plug(self) -> None:
        """Every process is gone at once."""
        assert self._nspawn is not None
        for child in children(self._nspawn.pid):
            os.kill(child, signal.SIGKILL)
        self._nspawn.wait(BOOT_S)
        self._nspawn = None

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(self._inside(*command), capture_output=True, text=True, check=False)
        assert not check or done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}"
        return done

    @contextmanager
    def running(self, *command: str) -> Iterator[None]:
        """A command that runs while the body does; it sees the end of its input when it is to end."""
        with subprocess.Popen(self._inside(*command), stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdin
            assert process.stdout
            assert process.stdout.readline(), f"{' '.join(command)}: ended"
            yield
            process.stdin.close()

    def file(self, path: str) -> Path:
        """A file of the box as it is seen from outside."""
        return self.tree / path.removeprefix("/")

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        file = self.file(path)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(mode)

    def _start_nspawn(self, *arguments: str) -> subprocess.Popen[bytes]:
        # Where systemd does not run on the host, there is nobody to ask for a scope.
        alone = () if Path("/run/systemd/system").exists() else ("--keep-unit",)
        command = ("systemd-nspawn", "--quiet", "--register=no", *alone, f"--directory={self.tree}", *self._binds)
        with self._console.open("ab") as console:
            return subprocess.Popen(
                [*command, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _inside(self, *command: str) -> list[str]:
        assert self._nspawn is not None
        [init] = children(self._nspawn.pid)
        enter = ("nsenter", f"--target={init}", "--mount", "--uts", "--ipc", "--net", "--pid", "--root", "--wd")
        return [*enter, "env", "-i", *ENVIRONMENT, *command]

    def _is_up(self) -> bool:
        assert self._nspawn is not None
        assert self._nspawn.poll() is None, self._console.read_text()[-3000:]
        if len(children(self._nspawn.pid)) != 1:
            return False
        return self.run("systemctl", "is-system-running", check=False).stdout.strip() in ("running", "degraded")


class Service:
    """A service in a box, as its operator sees it."""

    def __init__(self, box: Box, name: str = "lva") -> None:
        self.box = box
        self._unit = f"{name}.service"

    def systemctl(self, *arguments: str) -> None:
        self.box.run("systemctl", *arguments, self._unit)

    def show(self, name: str) -> str:
        return self.box.run("systemctl", "show", "--value", f"--property={name}", self._unit).stdout.strip()

    @property
    def main_pid(self) -> int:
        return int(self.show("MainPID"))

    @property
    def restarts(self) -> int:
        return int(self.show("NRestarts"))

    def is_running(self) -> bool:
        return (self.show("ActiveState"), self.show("SubState")) == ("active", "running")

    def pids(self) -> list[int]:
        """Every process of the unit, by its number inside."""
        found = self.box.run("sh", "-c", f"grep -ls /{self._unit} /proc/[0-9]*/cgroup", check=False).stdout
        return [int(Path(file).parent.name) for file in found.splitlines()]

    def log(self) -> list[str]:
        """What the processes of the unit wrote, a line each; not what systemd says of them."""
        wanted = (f"_SYSTEMD_UNIT={self._unit}", "--output=cat", "--no-pager", "--all")
        return self.box.run("journalctl", *wanted).stdout.splitlines()

    def told(self, event: str) -> list[dict[str, Any]]:
        """Every line of the log about this."""
        return [line for line in map(_json, self.log()) if line.get("event") == event]

    def events(self) -> dict[str, dict[str, Any]]:
        """What is in Postgres, by event id."""
        lines = self.box.run("lva", "events", "--json").stdout.splitlines()
        return {event["event_id"]: event for event in map(json.loads, lines)}

    def accepted(self) -> set[str]:
        """The ids that the daemon has said to be accepted: written after the journal's commit."""
        return {line["event_id"] for line in self.told("event.accepted")}

    def kill(self, number: signal.Signals) -> None:
        self.box.run("sh", "-c", f"kill -{number.value} {self.main_pid}")

    def full_journal(self, lines: int = 1000) -> str:
        """With what systemd says of the unit."""
        wanted = (f"--unit={self._unit}", f"--lines={lines}", "--no-pager")
        return self.box.run("journalctl", *wanted, check=False).stdout


def eventually(condition: Callable[[], object], what: str, within_s: float = 60) -> None:
    """Wait until it holds; a box of its own can't be awaited otherwise."""
    end_s = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < end_s, f"not within {within_s} s: {what}"
        time.sleep(POLL_S)


def copy(folder: Path, into: Path) -> None:
    """All that is in the folder, with its owners and modes."""
    into.mkdir(exist_ok=True)
    subprocess.run(["cp", "-a", "--reflink=auto", f"{folder}/.", into], check=True)


def remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)


def _json(line: str) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
