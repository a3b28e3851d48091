"""What is told to the service manager, and what it asked for."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon.systemd import Notifier


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.setblocking(False)
        yield listening


def a_notifier(manager: socket.socket) -> Notifier:
    return Notifier({"NOTIFY_SOCKET": manager.getsockname()})


def said(manager: socket.socket) -> list[str]:
    messages: list[str] = []
    while True:
        try:
            messages.append(manager.recv(4096).decode())
        except BlockingIOError:
            return messages


def test_a_status_is_one_line_and_told_when_it_changes(manager: socket.socket) -> None:
    notifier = a_notifier(manager)
    for status in ("two\nlines", "two\nlines", "another"):
        notifier.status(status)
    assert said(manager) == ["STATUS=two lines", "STATUS=another"]


def test_there_are_no_signs_of_life_once_it_is_stopping(manager: socket.socket) -> None:
    notifier = a_notifier(manager)
    notifier.alive()
    notifier.stopping()
    notifier.alive()
    assert said(manager) == ["WATCHDOG=1", "STOPPING=1\nSTATUS=draining"]


def test_more_time_is_asked_for_in_microseconds(manager: socket.socket) -> None:
    a_notifier(manager).extend(1.5)
    assert said(manager) == ["EXTEND_TIMEOUT_USEC=1500000"]


def test_an_abstract_address_is_reached_too() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind("")  # the kernel picks an abstract one
        Notifier({"NOTIFY_SOCKET": "@" + listening.getsockname()[1:].decode()}).alive()
        assert listening.recv(100) == b"WATCHDOG=1"


@pytest.mark.parametrize("address", ["", "/nowhere/notify", "host:1234"])
def test_without_anybody_who_listens_nothing_happens(address: str) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": address})
    notifier.ready("well")
    notifier.status("well")
    notifier.alive()


@pytest.mark.parametrize(
    ("usec", "pid", "wanted_s"),
    [
        ("30000000", "", 30.0),
        ("500000", "own", 0.5),
        ("30000000", "1", None),
        ("0", "", None),
        ("", "", None),
        ("soon", "", None),
    ],
)
def test_signs_of_life_are_given_to_whoever_asks_this_very_process(usec: str, pid: str, wanted_s: float | None) -> None:
    asked = str(os.getpid()) if pid == "own" else pid
    assert Notifier({"WATCHDOG_USEC": usec, "WATCHDOG_PID": asked}).watchdog_s == wanted_s


def test_child_processes_do_not_inherit_what_is_between_us_and_the_service_manager(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", "/nowhere/notify")
    monkeypatch.setenv("WATCHDOG_USEC", "1000000")
    assert Notifier().watchdog_s == 1.0
    assert not {"NOTIFY_SOCKET", "WATCHDOG_USEC"} & set(os.environ)
