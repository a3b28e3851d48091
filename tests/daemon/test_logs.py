import contextlib
import io
import json
import logging
import os
import subprocess
import sys
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote, quote_plus

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from daemon.log_writer import CHARS_MAX, LogWriter
from daemon.logs import LogSettings, Redactor, configure_logs
from daemon.redactor import MASK, secrets_of

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


SECRETS = [SECRET, "back\\slash'\"quotes", "möbius-canary"]


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize("form", [str, quote, quote_plus, lambda text: quote(text, safe=""), repr, json.dumps])
def test_a_known_secret_is_masked_in_whatever_form_it_comes(secret: str, form: Callable[[str], str]) -> None:
    assert Redactor([secret])(f"it says {form(secret)}.").replace("'", "").replace('"', "") == f"it says {MASK}."


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize(("before", "after"), [("", ""), ("me:", ""), ("user:", "\n"), ("admin:", "\n")])
def test_a_known_secret_is_masked_within_base64(secret: str, before: str, after: str) -> None:
    """But for its first and last bits, which share a character with what stands beside them."""
    encoded = b64encode(f"{before}{secret}{after}".encode()).decode()
    shown = Redactor([secret])(f"Basic {encoded}")
    masked = len(f"Basic {encoded}") - len(shown.replace(MASK, ""))
    assert masked >= len(secret.encode()) * 8 // 6 - 1


@given(
    secret=st.text(st.characters(codec="ascii", exclude_characters="*", exclude_categories=["Cc"]), min_size=4),
    around=st.text(max_size=20),
)
def test_no_text_keeps_a_known_secret(secret: str, around: str) -> None:
    assert secret not in Redactor([secret])(f"{around}{secret}{around}{quote(secret, safe='')}").replace(MASK, "")


def test_secrets_may_be_added_and_the_old_ones_stay_masked() -> None:
    redactor = Redactor(["old-canary"])
    redactor.add_secrets(["new-canary"])
    assert redactor("old-canary new-canary") == f"{MASK} {MASK}"


def test_what_is_secret_in_an_address_is_known() -> None:
    assert list(secrets_of("rtsp://me:p%40ss@camera/x?token=abc&user=me&size=3")) == ["p%40ss", "abc"]
    assert list(secrets_of("http://camera/x?size=3")) == []
    assert list(secrets_of("/videos/yard.mp4?token=abc")) == []


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
    """Case 20."""
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


IN_A_DAEMON = "import sys, structlog, threading; from daemon.logs import *; log = structlog.get_logger()\n"


def daemon_process(script: str, stdout: int = subprocess.PIPE) -> "subprocess.Popen[str]":
    """A process that logs as the daemon does, and knows one secret."""
    first = IN_A_DAEMON + f"configure_daemon_logs(LogSettings(), [{SECRET!r}])\n"
    return subprocess.Popen([sys.executable, "-c", first + script], stdout=stdout, stderr=subprocess.PIPE, text=True)


def test_the_last_lines_are_written_before_the_process_ends() -> None:
    done = daemon_process("for number in range(5000): log.info('a.b', number=number)")
    out, err = done.communicate(timeout=60)
    assert (done.returncode, err) == (0, "")
    assert [json.loads(line)["number"] for line in out.splitlines()] == list(range(5000))


def test_a_log_that_nobody_reads_holds_up_neither_the_work_nor_the_end() -> None:
    many = "for number in range(50_000): log.info('a.b', number=number)\n"
    unread = daemon_process(many + "print('worked on', file=sys.stderr)")
    assert unread.stderr is not None
    assert unread.stderr.readline() == "worked on\n"
    assert unread.wait(timeout=60) == 0
    unread.communicate()


def test_a_crash_is_told_without_its_secrets() -> None:
    crashed = daemon_process(
        f"def fail(): raise ValueError({SECRET!r})\n"
        "thread = threading.Thread(target=fail, name='side'); thread.start(); thread.join()\n"
        "fail()"
    )
    out, err = crashed.communicate(timeout=60)
    assert (crashed.returncode, err) == (1, "")
    in_thread, at_the_end = [json.loads(line) for line in out.splitlines()]
    assert (in_thread["event"], in_thread["thread"]) == ("thread.crashed", "side")
    assert (at_the_end["event"], at_the_end["level"]) == ("daemon.crashed", "critical")
    assert f"ValueError: {MASK}" in at_the_end["exception"]
    assert "canary" not in out


class Pipe:
    """A pipe that is read when the test says so, and a writer at its other end."""

    def __init__(self, lines_max: int) -> None:
        self.reading, self.writing = os.pipe()
        self.flowed: list[int] = []
        self.writer = LogWriter(self.writing, self.flowed.append, lines_max)
        self.writer.start()

    def fill(self) -> int:
        """Write lines until one is dropped; returns how many."""
        written = 0
        while not self.writer.dropped:
            self.writer.write(f"{written:01000}\n")
            written += 1
        return written

    def read(self, lines: int) -> list[int]:
        with open(self.reading, closefd=False) as stream:
            return [int(stream.readline()) for _ in range(lines)]


@contextmanager
def a_pipe(lines_max: int = 100) -> Iterator[Pipe]:
    pipe = Pipe(lines_max)
    try:
        yield pipe
    finally:
        os.close(pipe.reading)
        pipe.writer.stop(60)
        os.close(pipe.writing)


@pytest.mark.parametrize("blocking", [True, False])
def test_the_newest_lines_are_dropped_and_told_once_it_flows_again(blocking: bool) -> None:
    with a_pipe() as pipe:
        os.set_blocking(pipe.writing, blocking)
        written = pipe.fill()
        kept = written - pipe.writer.dropped
        assert pipe.read(kept) == list(range(kept))
        pipe.writer.write("7\n")
        assert pipe.read(1) == [7]
        assert pipe.flowed == [written - kept]
        pipe.writer.stop(60)


def test_what_waits_is_bounded_by_its_size_too() -> None:
    with a_pipe(lines_max=10**9) as pipe:
        line = "x" * 10**6 + "\n"
        for _ in range(2 * CHARS_MAX // len(line)):
            pipe.writer.write(line)
        assert pipe.writer.dropped > 0


def test_a_stop_waits_no_longer_than_it_may() -> None:
    with a_pipe() as pipe:
        pipe.fill()
        pipe.writer.stop(0.01)


def test_lines_that_the_disk_has_no_room_for_are_counted() -> None:
    """Case 20."""
    flowed: list[int] = []
    with open("/dev/full", "w") as full:
        writer = LogWriter(full.fileno(), flowed.append)
        writer.start()
        for _ in range(3):
            writer.write("lost\n")
        writer.stop(60)
        assert (writer.dropped, flowed) == (3, [])


def test_text_that_is_no_unicode_is_written_all_the_same(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as file:
        writer = LogWriter(file.fileno(), print)
        writer.start()
        writer.write("\ud800\n")
        writer.stop(60)
    assert (tmp_path / "log").read_text() == "\\ud800\n"
