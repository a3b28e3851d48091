"""The daemon as a process: real clip, real detector, real journal, real Postgres."""

import asyncio
import json
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.daemon.lva import lva
from tests.shared import PERSON_ONNX, PETS, needs_shared

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "daemon" / "demo"
WAIT_S = 60.0

Lines = list[dict[str, Any]]


def a_config(folder: Path, extra: str = "", provider: str = 'kind = "detections"', **camera: Any) -> Path:
    """The bundled clip as one camera; `extra` goes in front, `camera` into its section. Without `[http]` in `extra`
    nobody listens: tests may run beside each other."""
    values = {"name": "yard", "url": str(DEMO / "yard.mp4"), "pace": "full"} | camera
    section = "\n".join(f"{key} = {json.dumps(value)}" for key, value in values.items())
    http = "" if "[http]" in extra else "[http]\nenabled = false\n"
    file = folder / "config.toml"
    file.write_text(
        f'site = "test"\n{extra}\n{http}[detector]\nmodel = "{DEMO}/world-yolo11n.onnx"\nsize_px = 416\n'
        f"[[cameras]]\n{section}\n[[providers]]\n{provider}\n"
    )
    return file


def events(config: Path, *options: str) -> list[dict[str, Any]]:
    done = lva("events", "--json", "--config", str(config), *options)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def logged(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def watch_to_the_end(config: Path, timeout_s: float = 140) -> list[dict[str, Any]]:
    done = lva("run", "--until-eof", "--config", str(config), timeout_s=timeout_s)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    lines = logged(done.stdout)
    assert [line for line in lines if line["level"] in ("warning", "error", "critical")] == []
    return lines


def test_the_bundled_clip_ends_as_the_rows_of_what_its_truth_says(tmp_path: Path) -> None:
    config = a_config(tmp_path)
    watch_to_the_end(config)
    rows = events(config)
    appeared = Counter(row["label"] for row in rows if row["kind"] == "object_appeared")
    assert appeared == {"person": 6, "car": 1, "backpack": 1}
    assert all(row["outcome"] for row in rows)
    for row in rows:
        assert (row["analysis"] is not None) == (row["kind"] in ("object_appeared", "crowd_gathering"))
    assert [row["priority"] for row in rows if row["kind"] == "crowd_gathering"] == ["high"]


@needs_shared
@pytest.mark.slow
def test_a_real_street_is_told_once_however_often_it_is_watched(tmp_path: Path) -> None:
    config = a_config(tmp_path, url=str(PETS), detect_fps=10)
    config.write_text(config.read_text().replace(f"{DEMO}/world-yolo11n.onnx", str(PERSON_ONNX)))
    for _ in range(2):
        watch_to_the_end(config)
        rows = events(config)
        appeared = [row for row in rows if row["kind"] == "object_appeared"]
        assert 17 <= len(appeared) <= 21
        assert all(row["outcome"] and row["analysis"] for row in appeared)
        assert len({row["event_id"] for row in rows}) == len(rows)


def start(config: Path, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "daemon", "run", "--config", str(config)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env)


def wait_for(daemon: subprocess.Popen[str], event: str, lines: Lines) -> dict[str, Any]:
    """Read its log until this event; what was read is added to `lines`."""
    assert daemon.stdout is not None
    for line in daemon.stdout:
        lines.append(json.loads(line))
        if lines[-1]["event"] == event:
            return lines[-1]
    raise AssertionError(f"the daemon ended with {daemon.wait()} before {event}: {lines[-5:]}")


def finish(daemon: subprocess.Popen[str], lines: Lines) -> int:
    rest, _ = daemon.communicate(timeout=WAIT_S)
    lines += logged(rest)
    return daemon.returncode


def test_a_stop_drains_and_exits_with_0(tmp_path: Path) -> None:
    """Case 51."""
    config = a_config(tmp_path, pace="realtime", loop=True)
    daemon = start(config)
    lines: Lines = []
    wait_for(daemon, "event.accepted", lines)
    daemon.send_signal(signal.SIGTERM)
    assert finish(daemon, lines) == 0
    assert lines[-1]["event"] == "daemon.stopped"
    assert lines[-1]["journal"]["waiting"] == 0
    assert all(row["outcome"] for row in events(config))


def test_after_a_kill_in_the_middle_the_same_recording_ends_as_if_nothing_had_happened(tmp_path: Path) -> None:
    """Case 14."""
    (undisturbed := tmp_path / "undisturbed").mkdir()
    (killed := tmp_path / "killed").mkdir()
    watch_to_the_end(a_config(undisturbed))
    config = a_config(killed)
    for turn in range(2):
        daemon = start(config)
        lines: Lines = []
        for _ in range(turn + 1):
            wait_for(daemon, "event.accepted", lines)
        daemon.kill()
        daemon.communicate(timeout=WAIT_S)
    watch_to_the_end(config)
    as_seen = [(row["event_id"], row["kind"], row["outcome"]) for row in events(config)]
    assert as_seen == [(row["event_id"], row["kind"], row["outcome"]) for row in events(undisturbed / "config.toml")]


def test_a_second_daemon_on_the_same_state_folder_is_refused(tmp_path: Path) -> None:
    """Case 24."""
    config = a_config(tmp_path, pace="realtime", loop=True)
    first = start(config)
    lines: Lines = []
    wait_for(first, "daemon.ready", lines)
    second = lva("run", "--config", str(config))
    assert second.returncode == 1
    assert "another lva is running" in second.stdout
    first.send_signal(signal.SIGINT)
    assert finish(first, lines) == 0


def test_a_second_signal_does_not_wait_for_the_drain(tmp_path: Path) -> None:
    """Case 51."""
    unreachable = 'kind = "openai"\nbase_url = "http://127.0.0.1:9/v1"\nmodel = "none"'
    config = a_config(tmp_path, pace="realtime", loop=True, provider=unreachable)
    daemon = start(config)
    lines: Lines = []
    wait_for(daemon, "daemon.ready", lines)
    daemon.send_signal(signal.SIGTERM)
    wait_for(daemon, "daemon.stopping", lines)
    daemon.send_signal(signal.SIGTERM)
    assert finish(daemon, lines) in (0, 1)


def test_events_that_nobody_can_answer_now_wait_for_the_next_start(tmp_path: Path) -> None:
    unreachable = (
        'kind = "openai"\nbase_url = "http://127.0.0.1:9/v1"\nmodel = "none"\nconnect_timeout_s = 0.5\ntimeout_s = 0.5'
    )
    config = a_config(tmp_path, "drain_s = 1", provider=unreachable)
    done = lva("run", "--until-eof", "--config", str(config), timeout_s=140)
    assert done.returncode == 1
    assert {row["outcome"] for row in events(config) if row["kind"] == "object_appeared"} == {None}
    config.write_text(a_config(tmp_path).read_text())
    done = lva("run", "--until-eof", "--config", str(config), timeout_s=140)
    assert done.returncode == 0
    assert {row["outcome"] for row in events(config) if row["kind"] == "object_appeared"} == {"degraded"}


def test_a_database_that_is_away_does_not_stop_the_watching_and_gets_its_rows_later(tmp_path: Path) -> None:
    """Cases 1, 2."""
    away = '[database]\nurl = "postgresql://u@127.0.0.1:9/none"\nconnect_timeout_s = 0.5'
    config = a_config(tmp_path, "drain_s = 1")
    config.write_text(config.read_text() + away)
    done = lva("run", "--until-eof", "--config", str(config), timeout_s=140)
    assert done.returncode == 1
    stopped = logged(done.stdout)[-1]
    assert stopped["journal"]["outbox"] > 20
    assert "127.0.0.1" in stopped["database"] or "refused" in stopped["database"].lower()
    config.write_text(a_config(tmp_path).read_text())
    assert lva("run", "--until-eof", "--config", str(config), timeout_s=140).returncode == 0
    assert all(row["outcome"] for row in events(config))


def test_the_daemon_itself_loads_no_torch(tmp_path: Path) -> None:
    daemon = start(a_config(tmp_path, pace="realtime", loop=True))
    lines: Lines = []
    wait_for(daemon, "camera.up", lines)
    mapped = Path(f"/proc/{daemon.pid}/maps").read_text()
    daemon.send_signal(signal.SIGTERM)
    assert finish(daemon, lines) == 0
    assert "openvino" in mapped
    assert not [name for name in ("torch", "ultralytics", "transformers", "onnxruntime") if f"/{name}/" in mapped]


@pytest.mark.parametrize(
    ("camera", "said"),
    [
        ({"url": "missing.mp4"}, "cameras: yard: "),
        ({"url": "rtsp://127.0.0.1:9/x", "pace": "realtime"}, "--until-eof needs one that is a file or folder"),
        ({"loop": True}, "--until-eof needs one that is a file or folder"),
    ],
)
def test_a_finite_run_without_an_end_is_a_mistake(tmp_path: Path, camera: dict[str, Any], said: str) -> None:
    done = lva("run", "--until-eof", "--config", str(a_config(tmp_path, **camera)))
    assert done.returncode == 78
    assert said in done.stderr


def test_a_missing_detector_is_a_mistake(tmp_path: Path) -> None:
    config = a_config(tmp_path)
    config.write_text(config.read_text().replace("world-yolo11n.onnx", "nothing.onnx"))
    done = lva("run", "--config", str(config))
    assert done.returncode == 78
    assert done.stderr.strip().endswith("nothing.onnx")
    assert "Traceback" not in done.stderr


def test_one_dead_camera_does_not_keep_the_others_from_being_watched(tmp_path: Path) -> None:
    """Case 25."""
    config = a_config(tmp_path, "[triggers.camera_down]\nafter_s = 1", pace="realtime", loop=True)
    config.write_text(
        config.read_text() + '[[cameras]]\nname = "dead"\nurl = "rtsp://user:canary-4711@127.0.0.1:9/x"\n'
    )
    daemon = start(config)
    lines: Lines = []
    while {line.get("kind") for line in lines if line["event"] == "event.accepted"} < {
        "camera_down",
        "object_appeared",
    }:
        wait_for(daemon, "event.accepted", lines)
    daemon.send_signal(signal.SIGTERM)
    assert finish(daemon, lines) == 0
    assert "canary" not in json.dumps(lines)
    [down] = events(config, "--kind", "camera_down")
    assert (down["camera"], down["outcome"], down["analysis"]) == ("dead", "done", None)


async def test_a_provider_that_answers_fills_the_columns(tmp_path: Path) -> None:
    """The way through Moondream's dialect: one closed question at a time, put together into one row."""
    server = await asyncio.create_subprocess_exec(
        sys.executable, str(Path(__file__).with_name("moondream_server.py")), stdout=asyncio.subprocess.PIPE
    )
    assert server.stdout is not None
    port = int(await server.stdout.readline())
    try:
        provider = f'kind = "moondream"\ndialect = "local"\nbase_url = "http://127.0.0.1:{port}/v1"'
        config = a_config(tmp_path, provider=provider)
        await asyncio.to_thread(watch_to_the_end, config)
    finally:
        server.terminate()
        await server.wait()
    answered = [row["analysis"] for row in events(config, "--kind", "object_appeared")]
    assert len(answered) == 8
    for analysis in answered:
        assert (analysis["provider"], analysis["people_count"], analysis["degraded"]) == ("moondream", 2, False)
        assert analysis["scene_description"] == "Two people stand in a yard."
        assert len(analysis["spatial_coordinates"]) == 2
        assert analysis["answers"]["hazard"]["value"] is False
