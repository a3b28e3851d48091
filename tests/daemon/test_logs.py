import contextlib
import io
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from urllib.parse import quote

import pytest
import structlog

from daemon.logs import LogSettings, Redactor, configure_logs

SECRET = "p@ss/w:rd?canary"


@pytest.fixture(autouse=True)
def _logs_as_they_were() -> Iterator[None]:
    handlers, level = logging.root.handlers[:], logging.root.level
    yield
    structlog.reset_defaults()
    logging.captureWarnings(False)
    logging.root.handlers, logging.root.level = handlers, level


def written(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_is_one_json_object_that_begins_with_what_every_line_has() -> None:
    stream = io.StringIO()
    configure_logs(LogSettings(), stream=stream)
    structlog.get_logger().info("camera.up", fps=10.0, camera="yard")
    [line] = written(stream)
    assert list(line) == ["timestamp", "level", "event", "camera", "fps"]
    assert line["timestamp"].endswith("Z")  # type: ignore[attr-defined]


def test_less_than_the_level_is_not_written() -> None:
    stream = io.StringIO()
    configure_logs(LogSettings(level="warning"), stream=stream)
    structlog.get_logger().info("camera.up")
    structlog.get_logger().warning("camera.down")
    assert [line["event"] for line in written(stream)] == ["camera.down"]


def test_a_known_secret_is_masked_wherever_it_stands() -> None:
    stream = io.StringIO()
    configure_logs(LogSettings(), [SECRET], stream)
    log = structlog.get_logger()
    log.info("a", url=f"rtsp://u:{quote(SECRET, safe='')}@h/x", nested={"list": [SECRET, (SECRET,)]})
    try:
        raise ValueError(f"could not open {SECRET}")
    except ValueError:
        log.exception("b")
    logging.getLogger("library").warning("it says %s", SECRET)
    assert "canary" not in stream.getvalue()
    assert len(written(stream)) == 3


@pytest.mark.parametrize(
    "text",
    [
        "open rtsp://user:canary@camera/stream failed",
        "rtsp://canary@camera/stream",
        "rtsp://us.er%40x:can@ry:canary@camera:554/stream",
        "http://camera/video?user=a&password=canary&x=1",
        "http://camera/video?TOKEN=canary",
        "postgresql://u:canary@h/d?sslmode=verify-full",
    ],
)
def test_credentials_in_an_address_are_masked_even_if_nobody_knows_them(text: str) -> None:
    assert "canary" not in Redactor()(text)


def test_what_is_no_secret_stays_as_it_is() -> None:
    text = "camera yard at http://10.0.0.9:8080/video?size=3 sent mail to a@b.example"
    assert Redactor(["abc"])(text) == text


def test_what_a_library_logs_becomes_an_event_too() -> None:
    stream = io.StringIO()
    configure_logs(LogSettings(), stream=stream)
    logging.getLogger("asyncio").warning("slow callback")
    [line] = written(stream)
    assert (line["event"], line["logger"], line["message"]) == ("library.log", "asyncio", "slow callback")


def test_a_full_disk_under_the_log_does_not_stop_the_work() -> None:
    with open("/dev/full", "w") as full:
        configure_logs(LogSettings(), stream=full)
        structlog.get_logger().info("camera.up")
        logging.getLogger("library").warning("lost")
        with contextlib.suppress(OSError):
            full.close()


def test_a_reader_that_goes_away_does_not_stop_the_work() -> None:
    script = (
        "import sys, structlog, logging; from daemon.logs import *; configure_logs(LogSettings())\n"
        "for _ in range(20000): structlog.get_logger().info('a'); logging.getLogger('x').warning('b')\n"
        "print('still here', file=sys.stderr)"
    )
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-c", script], stdout=writing, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(writing)
    assert done.stderr.startswith("still here")
