"""Harness N: what systemd does with a service of Type=notify, without systemd.

Listens where the daemon is told to report, remembers what it said and when, and ends it by SIGABRT when no sign of
life has come for as long as it promised one.
"""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.daemon.test_run import Lines, finish, logged, wait_for

PATIENCE_S = 60.0


@dataclass(frozen=True)
class Said:
    at_s: float
    fields: dict[str, str]


class ServiceManager:
    """One service at a time. Entering listens; leaving kills what still runs."""

    def __init__(self, folder: Path, watchdog_s: float | None = None) -> None:
        self.said: list[Said] = []
        self.lines: Lines = []
        self._address = str(folder / "notify")
        self._watchdog_s = watchdog_s
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._heard = threading.Condition()
        self._daemon: subprocess.Popen[str] | None = None
        self._last_sign_s: float | None = None

    def __enter__(self) -> Self:
        self._socket.bind(self._address)
        self._socket.settimeout(0.05)
        self._left = threading.Event()
        self._listener = threading.Thread(target=self._listen, name="service manager")
        self._listener.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._daemon is not None and self._daemon.poll() is None:
            self._daemon.kill()
            self._daemon.communicate()
        self._left.set()
        self._listener.join()
        self._socket.close()

    def start(self, config: Path, module: str = "daemon", **environment: str) -> subprocess.Popen[str]:
        """Start the daemon, or another module that takes the same arguments."""
        told = {"NOTIFY_SOCKET": self._address}
        if self._watchdog_s is not None:
            told["WATCHDOG_USEC"] = str(round(self._watchdog_s * 1e6))
        self._last_sign_s = None
        self._daemon = subprocess.Popen(
            [sys.executable, "-m", module, "run", "--config", str(config)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | told | environment,
        )
        return self._daemon

    @property
    def daemon(self) -> subprocess.Popen[str]:
        assert self._daemon is not None
        return self._daemon

    def wait_said(self, condition: Callable[[dict[str, str]], Any]) -> Said:
        """The first message of which this is true, said already or to come."""
        until_s = time.monotonic() + PATIENCE_S
        with self._heard:
            while not (found := self._first(condition)) and self.daemon.poll() is None and time.monotonic() < until_s:
                self._heard.wait(timeout=0.5)
        assert found, f"never said ({self.daemon.poll()=}); it said {[said.fields for said in self.said][-10:]}"
        return found

    def wait_ready(self) -> Said:
        return self.wait_said(lambda fields: fields.get("READY") == "1")

    def wait_logged(self, event: str) -> dict[str, Any]:
        """The next such line of its log."""
        return wait_for(self.daemon, event, self.lines)

    def stop(self) -> int:
        """As `systemctl stop`; the exit status."""
        self.daemon.send_signal(signal.SIGTERM)
        return finish(self.daemon, self.lines)

    def await_end(self) -> tuple[int, str]:
        """Exit status (negative: the signal), and what it printed that is no line of the log."""
        rest, _ = self.daemon.communicate(timeout=PATIENCE_S)
        as_lines = [line for line in rest.splitlines() if line.startswith("{")]
        self.lines += logged("\n".join(as_lines))
        return self.daemon.returncode, "\n".join(line for line in rest.splitlines() if not line.startswith("{"))

    def signs_of_life(self) -> list[float]:
        return [said.at_s for said in self.said if said.fields.get("WATCHDOG") == "1"]

    def statuses(self) -> list[str]:
        return [said.fields["STATUS"] for said in self.said if "STATUS" in said.fields]

    def _first(self, condition: Callable[[dict[str, str]], Any]) -> Said | None:
        return next((said for said in self.said if condition(said.fields)), None)

    def _listen(self) -> None:
        while not self._left.is_set():
            try:
                message = self._socket.recv(4096).decode()
            except TimeoutError:
                self._enforce()
                continue
            fields = dict(line.split("=", 1) for line in message.splitlines())
            with self._heard:
                self.said.append(Said(time.monotonic(), fields))
                self._heard.notify_all()
            if fields.get("WATCHDOG") == "1" or fields.get("READY") == "1":
                self._last_sign_s = time.monotonic()
            if fields.get("STOPPING") == "1":
                self._last_sign_s = None

    def _enforce(self) -> None:
        """systemd's watchdog begins with READY."""
        if self._watchdog_s is None or self._last_sign_s is None or self.daemon.poll() is not None:
            return
        if time.monotonic() - self._last_sign_s > self._watchdog_s:
            self._last_sign_s = None
            self.daemon.send_signal(signal.SIGABRT)
