"""`lva status`, of real daemons, of none, and of something else that answers in their place."""

import asyncio
import json
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from daemon.commands.status_page import print_page, span
from daemon.http_settings import HttpSettings
from daemon.http_surface import Surface
from daemon.snapshot import DatabaseSnapshot, JournalSnapshot, QueueSnapshot, Snapshot
from pipeline.camera import CameraState
from tests.daemon.lva import lva
from tests.daemon.snapshots import a_camera, a_provider, a_snapshot
from tests.daemon.test_http_surface import free_port
from tests.daemon.test_metrics import used_stages
from tests.daemon.test_run import Lines, a_config, finish, start, wait_for
from tests.providers.wire import Wire, told


@contextmanager
def a_daemon(folder: Path, until: str, **camera: Any) -> Iterator[Path]:
    """Its configuration, while it runs; from when it has logged this."""
    http = f"[http]\nport = {free_port()}\n"
    live: dict[str, Any] = {"pace": "realtime", "loop": True}
    config = a_config(folder, http, **live | camera)
    daemon = start(config)
    lines: Lines = []
    try:
        wait_for(daemon, until, lines)
        yield config
    finally:
        daemon.send_signal(signal.SIGTERM)
        finish(daemon, lines)


def test_a_daemon_with_which_all_is_well(tmp_path: Path) -> None:
    with a_daemon(tmp_path, "event.analyzed") as config:
        done = lva("status", "--config", str(config))
        assert (done.returncode, done.stderr) == (0, "")
        assert "all is well" in done.stdout.splitlines()[0]
        assert "yard" in done.stdout
        as_json = json.loads(lva("status", "--json", "--config", str(config)).stdout)
        assert as_json["troubles"] == []
        assert as_json["cameras"][0]["state"] == "up"
        assert as_json["events"]["accepted"]["object_appeared"] >= 1


def test_a_camera_that_is_down_is_named_and_the_exit_code_is_1(tmp_path: Path) -> None:
    url = "rtsp://me:canary-4711@127.0.0.1:9/x"
    with a_daemon(tmp_path, "camera.down", url=url, loop=False) as config:
        done = lva("status", "--config", str(config))
    assert (done.returncode, done.stderr) == (1, "")
    assert "! camera yard is down: " in done.stdout
    assert "canary" not in done.stdout


def test_secrets_are_not_needed_to_ask(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(f"site = '${{credential:none}}'\n[http]\nport = {free_port()}")
    assert "nobody answers" in lva("status", "--config", str(tmp_path / "config.toml")).stderr


def failure(folder: Path, http: str) -> str:
    (folder / "config.toml").write_text(f"[http]\n{http}")
    done = lva("status", "--config", str(folder / "config.toml"))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1
    return done.stderr


def test_nobody_who_answers_is_said_in_a_line(tmp_path: Path) -> None:
    said = failure(tmp_path, f"port = {(port := free_port())}")
    assert said == (f"Error: http://127.0.0.1:{port}: nobody answers: is the daemon running? (Connection refused)\n")


def test_http_switched_off_is_said_in_a_line(tmp_path: Path) -> None:
    assert "[http] enabled = false" in failure(tmp_path, "enabled = false")


def test_a_daemon_that_does_not_answer_is_stuck(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert "the daemon is stuck" in failure(tmp_path, f"port = {silent.getsockname()[1]}")


@pytest.mark.parametrize("reply", [{"hello": "world"}, ["troubles"], 7])
async def test_something_else_that_answers_is_not_the_daemon(tmp_path: Path, wire: Wire, reply: Any) -> None:
    wire.on("/api/stats", told(reply))
    port = wire.url.rpartition(":")[2]
    assert "something answers there" in await asyncio.to_thread(failure, tmp_path, f"port = {port}")


def test_a_wrong_section_is_a_mistake_in_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("[http]\nport = 0")
    done = lva("status", "--config", str(tmp_path / "config.toml"))
    assert done.returncode == 78
    assert "http.port: " in done.stderr


async def page(now: Snapshot, capsys: pytest.CaptureFixture[str]) -> str:
    surface = Surface(HttpSettings(), lambda: now, used_stages(), list, list)
    text = (await surface._stats()).text
    print_page(json.loads(text or ""))
    return capsys.readouterr().out


async def test_everything_that_is_wrong_is_on_the_page(capsys: pytest.CaptureFixture[str]) -> None:
    shown = await page(
        a_snapshot(
            cameras=(a_camera("door", CameraState.DOWN, reason="timeout\x1b[31m", down_s=192.0),),
            providers=(a_provider("station", "down", failures={"timeout": 3}, asked=1204),),
            queue=QueueSnapshot({"critical": 1, "low": 0}, 3, 8.2),
            journal=JournalSnapshot(12, 2, 140, 2),
            database=DatabaseSnapshot("down", "refused", "transient", 7300.0, 7, 5210, 2),
            log_lines_dropped=12,
        ),
        capsys,
    )
    for words in (
        "4 things to look at",
        "! camera door is down: timeout\\u001b[31m",
        "down for 3 min",
        "3 timeout",
        "1,204",
        "14 events (1 critical, 3 to be asked about again), the oldest for 8.2 s",
        "5,210 in the database, 140 on their way, 2 dead letters",
        "down for 2 h 1 min: refused",
        "12 lines of the log lost",
    ):
        assert words in shown


async def test_a_box_where_nothing_has_happened_yet_has_a_page_too(capsys: pytest.CaptureFixture[str]) -> None:
    shown = await page(a_snapshot(cameras=(), providers=()), capsys)
    assert "all is well" in shown
    assert "camera " not in shown


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.0004, "0.4 ms"),
        (0.0234, "23 ms"),
        (1.44, "1.4 s"),
        (44, "44 s"),
        (192, "3 min"),
        (7500, "2 h 5 min"),
        (3600, "1 h"),
        (3 * 86400 + 4 * 3600, "3 d 4 h"),
    ],
)
def test_times_are_told_as_people_tell_them(seconds: float, words: str) -> None:
    assert span(seconds) == words
