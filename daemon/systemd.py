"""The service manager's notification protocol (sd_notify(3)): one datagram of KEY=value lines."""

import os
import socket
from collections.abc import Mapping

MAX_STATUS_CHARS = 500


class Notifier:
    """Tells the service manager how we are; without one, it tells nobody. Never fails, never blocks."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        self._address = environment.get("NOTIFY_SOCKET", "")

    def ready(self, status: str) -> None:
        self._send(f"READY=1\nSTATUS={_line(status)}")

    def status(self, status: str) -> None:
        self._send(f"STATUS={_line(status)}")

    def stopping(self) -> None:
        self._send("STOPPING=1\nSTATUS=draining")

    def _send(self, message: str) -> None:
        if not self._address.startswith(("/", "@")):
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            sender.setblocking(False)
            try:
                sender.sendto(message.encode(), address)
            except OSError:
                return  # nobody listens: being heard is no condition for doing the work


def _line(status: str) -> str:
    return " ".join(status.split())[:MAX_STATUS_CHARS]
