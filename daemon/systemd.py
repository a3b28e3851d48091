"""The service manager's notification protocol (sd_notify(3)): one datagram of KEY=value lines."""

import os
import socket
from collections.abc import Mapping
from contextlib import suppress

MAX_STATUS_CHARS = 500


class Notifier:
    """Tells the service manager how we are; without one, it tells nobody. Never fails, never blocks.

    Takes its variables out of the environment, so that no child process believes that it is the service.
    """

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        given = environment if environment is not None else _taken_from(os.environ)
        self._address = given.get("NOTIFY_SOCKET", "")
        self._told_status = ""
        self._is_stopping = False
        self.watchdog_s = _watchdog_s(given)
        """A sign of life is wanted this often; None: nobody wants any."""

    def ready(self, status: str) -> None:
        self._send(f"READY=1\nSTATUS={_line(status)}")

    def status(self, status: str) -> None:
        """Sent only when it is another than the last one."""
        if status != self._told_status:
            self._told_status = status
            self._send(f"STATUS={_line(status)}")

    def alive(self) -> None:
        """While stopping, the service manager's patience with that is what counts: a sign would arm its watchdog
        again, for the last moments, in which nobody gives signs."""
        if not self._is_stopping:
            self._send("WATCHDOG=1")

    def extend(self, seconds: float) -> None:
        """Starting or stopping takes longer: for so long from now, the service manager is to wait."""
        self._send(f"EXTEND_TIMEOUT_USEC={round(seconds * 1e6)}")

    def stopping(self) -> None:
        self._is_stopping = True
        self._send("STOPPING=1\nSTATUS=draining")

    def _send(self, message: str) -> None:
        if not self._address.startswith(("/", "@")):
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        # Nobody listens, or no file can be opened: being heard is no condition for doing the work.
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            sender.setblocking(False)
            sender.sendto(message.encode(), address)


def _taken_from(environment: os._Environ[str]) -> dict[str, str]:
    names = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
    return {name: environment.pop(name) for name in names if name in environment}


def _watchdog_s(environment: Mapping[str, str]) -> float | None:
    """As sd_watchdog_enabled(3) reads it: for this process, or for whoever asks where no process is named."""
    usec, pid = environment.get("WATCHDOG_USEC", ""), environment.get("WATCHDOG_PID", "")
    if not usec.isdecimal() or int(usec) == 0 or (pid and pid != str(os.getpid())):
        return None
    return int(usec) / 1e6


def _line(status: str) -> str:
    return " ".join(status.split())[:MAX_STATUS_CHARS]
