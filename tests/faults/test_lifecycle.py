"""Cases 49 to 53 and 56: the daemon under a service manager, when it wedges, is stopped, or is given a new
configuration. The service manager is harness N; `make systemd-test` does the same with the real one."""

import json
import signal
import socket
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.daemon.lva import lva
from tests.daemon.test_run import DEMO, a_config, events
from tests.faults.service_manager import ServiceManager
from tests.processes import camera_processes

LIVE: dict[str, Any] = {"pace": "realtime", "loop": True}


def test_ready_comes_first_and_once_then_signs_of_life_then_stopping(tmp_path: Path) -> None:
    with ServiceManager(tmp_path, watchdog_s=3.0) as manager:
        manager.start(a_config(tmp_path, **LIVE))
        manager.wait_ready()
        manager.wait_said(lambda _: len(manager.signs_of_life()) >= 6)
        assert manager.stop() == 0
        kinds = [next(iter(said.fields)) for said in manager.said]
        assert kinds.count("READY") == kinds.count("STOPPING") == 1
        assert set(kinds[: kinds.index("READY")]) == {"EXTEND_TIMEOUT_USEC"}
        signs = manager.signs_of_life()
        gaps = [later - earlier for earlier, later in pairwise(signs)]
        assert sorted(gaps)[len(gaps) // 2] <= 3.0 / 2  # a machine that is busy may delay one, not most of them


def test_a_wedged_event_loop_is_ended_with_its_stack_in_the_log_and_nothing_is_lost(tmp_path: Path) -> None:
    """Case 49."""
    config = a_config(tmp_path, **LIVE)
    with ServiceManager(tmp_path, watchdog_s=3.0) as manager:
        manager.start(config, "tests.faults.wedged")
        manager.wait_ready()
        manager.wait_logged("event.accepted")
        manager.daemon.send_signal(signal.SIGUSR1)
        status, stack = manager.await_end()
        assert status == -signal.SIGABRT
        assert "Fatal Python error: Aborted" in stack
        assert "Current thread" in stack
        manager.start(config)
        manager.wait_logged("event.accepted")
        assert manager.stop() == 0
    accepted = {line["event_id"] for line in manager.lines if line["event"] == "event.accepted"}
    rows = {row["event_id"]: row for row in events(config)}
    assert accepted <= set(rows)
    assert all(row["outcome"] for row in rows.values())


def test_a_worker_that_ends_without_a_word_is_noticed_and_the_daemon_is_started_anew(tmp_path: Path) -> None:
    """Case 50."""
    with ServiceManager(tmp_path, watchdog_s=3.0) as manager:
        manager.start(a_config(tmp_path, **LIVE), "tests.faults.wedged")
        manager.wait_logged("event.accepted")
        manager.daemon.send_signal(signal.SIGUSR2)
        assert "task worker 0" in manager.wait_logged("watchdog.stuck")["parts"]
        assert manager.await_end()[0] == -signal.SIGABRT
    assert lva("run", "--until-eof", "--config", str(a_config(tmp_path))).returncode == 0  # and Postgres ends with it


def test_what_is_away_outside_is_no_reason_for_a_restart(tmp_path: Path) -> None:
    """Database, camera and provider refuse all the time: signs of life go on."""
    provider = 'kind = "ollama"\nbase_url = "http://127.0.0.1:9"'
    config = a_config(tmp_path, "drain_s = 0", provider, url="rtsp://127.0.0.1:9/x", pace="realtime")
    config.write_text(config.read_text() + '[database]\nurl = "postgresql://u@127.0.0.1:9/none"\n')
    with ServiceManager(tmp_path, watchdog_s=1.5) as manager:
        manager.start(config)
        manager.wait_ready()
        manager.wait_said(lambda _: len(manager.signs_of_life()) >= 12)
        assert manager.stop() == 0
    assert [line for line in manager.lines if line["event"] == "watchdog.stuck"] == []


def test_a_second_signal_does_not_wait_for_the_drain(tmp_path: Path) -> None:
    """Case 51: a provider takes the question and never answers, so the drain would last its ten minutes."""
    with socket.create_server(("127.0.0.1", 0)) as silent, ServiceManager(tmp_path) as manager:
        provider = f'kind = "ollama"\nbase_url = "http://127.0.0.1:{silent.getsockname()[1]}"\ntimeout_s = 600'
        config = a_config(tmp_path, "drain_s = 600", provider, **LIVE)
        manager.start(config)
        manager.wait_logged("event.accepted")
        manager.daemon.send_signal(signal.SIGTERM)
        manager.wait_logged("daemon.draining")
        assert manager.stop() == 0
    assert manager.lines[-1]["event"] == "daemon.forced"
    assert lva("run", "--until-eof", "--config", str(a_config(tmp_path, "drain_s = 5"))).returncode == 0
    assert all(row["outcome"] for row in events(config))


def test_a_stop_while_the_detector_is_loading_is_obeyed(tmp_path: Path) -> None:
    """Case 51."""
    with ServiceManager(tmp_path) as manager:
        manager.start(a_config(tmp_path, **LIVE))
        manager.wait_said(lambda fields: "EXTEND_TIMEOUT_USEC" in fields)
        assert manager.stop() == 0


def test_a_wrong_configuration_is_refused_and_the_one_before_goes_on(tmp_path: Path) -> None:
    """Case 52."""
    config = a_config(tmp_path, "[log]\nsummary_s = 0.5", **LIVE)
    good = config.read_text()
    with ServiceManager(tmp_path) as manager:
        manager.start(config)
        manager.wait_logged("event.accepted")
        before = set(camera_processes(manager.daemon.pid))
        config.write_text(good.replace("pace", "paec"))
        manager.daemon.send_signal(signal.SIGHUP)
        [error] = manager.wait_logged("config.refused")["errors"]
        assert error.endswith("cameras[0].paec: unknown key")
        assert (
            "paec: unknown key"
            in manager.wait_said(lambda fields: "refused" in fields.get("STATUS", "")).fields["STATUS"]
        )
        config.write_text(good)
        manager.daemon.send_signal(signal.SIGHUP)
        reloaded = manager.wait_logged("config.reloaded")
        assert (reloaded["changed"], reloaded["needs_restart"]) == ([], [])
        manager.wait_logged("event.accepted")
        assert set(camera_processes(manager.daemon.pid)) == before
        manager.wait_said(lambda _: "refused" not in manager.statuses()[-1])
        assert manager.stop() == 0


def test_a_camera_comes_and_goes_and_the_others_never_notice(tmp_path: Path) -> None:
    config = a_config(tmp_path, **LIVE)
    alone = config.read_text()
    second = f'[[cameras]]\nname = "gate"\nurl = "{DEMO}/yard.mp4"\nloop = true\n'
    with ServiceManager(tmp_path) as manager:
        manager.start(config)
        manager.wait_logged("camera.up")
        before = set(camera_processes(manager.daemon.pid))
        config.write_text(alone + second)
        manager.daemon.send_signal(signal.SIGHUP)
        assert manager.wait_logged("config.reloaded")["cameras_added"] == ["gate"]
        assert manager.wait_logged("camera.up")["camera"] == "gate"
        assert set(camera_processes(manager.daemon.pid)) > before
        config.write_text(alone)
        manager.daemon.send_signal(signal.SIGHUP)
        assert manager.wait_logged("config.reloaded")["cameras_removed"] == ["gate"]
        assert set(camera_processes(manager.daemon.pid)) == before
        config.write_text(alone.replace('"yard"', '"court"'))
        manager.daemon.send_signal(signal.SIGHUP)
        manager.wait_logged("config.reloaded")
        assert manager.wait_logged("camera.up")["camera"] == "court"
        assert manager.stop() == 0


def test_new_rules_questions_and_providers_hold_without_a_new_connection(tmp_path: Path) -> None:
    config = a_config(tmp_path, **LIVE)
    with ServiceManager(tmp_path) as manager:
        manager.start(config)
        assert manager.wait_logged("event.accepted")["priority"] == "medium"
        before = set(camera_processes(manager.daemon.pid))
        text = config.read_text().replace('kind = "detections"', 'kind = "detections"\nname = "second"')
        rules = '[triggers.object_appeared]\npriority = "critical"\n'
        question = '[[questions]]\nname = "cars"\nkind = "count"\nobject = "car"\n'
        config.write_text(text + rules + question)
        manager.daemon.send_signal(signal.SIGHUP)
        assert manager.wait_logged("config.reloaded")["changed"] == ["triggers", "questions", "providers"]
        while manager.wait_logged("event.analyzed")["priority"] != "critical":
            pass
        assert set(camera_processes(manager.daemon.pid)) == before
        assert manager.stop() == 0
    [row, *_] = [row for row in events(config) if row["priority"] == "critical"]
    assert row["analysis"]["provider"] == "second"
    assert list(row["analysis"]["answers"]) == ["cars"]


def test_what_can_only_change_at_a_start_is_named(tmp_path: Path) -> None:
    config = a_config(tmp_path, **LIVE)
    with ServiceManager(tmp_path) as manager:
        manager.start(config)
        manager.wait_ready()
        config.write_text("drain_s = 5\n" + config.read_text().replace("size_px = 416", "size_px = 320"))
        manager.daemon.send_signal(signal.SIGHUP)
        assert manager.wait_logged("config.reloaded")["needs_restart"] == ["drain_s", "detector"]
        assert manager.stop() == 0


def test_a_rotated_credential_is_picked_up_and_masked(tmp_path: Path) -> None:
    """Case 56."""
    (tmp_path / "credentials").mkdir()
    password = tmp_path / "credentials" / "door"
    password.write_text("canary-before\n")
    config = a_config(tmp_path, **LIVE)
    door = '[[cameras]]\nname = "door"\nurl = "rtsp://viewer:${credential:door}@127.0.0.1:9/x"\n'
    config.write_text(config.read_text() + door)
    with ServiceManager(tmp_path) as manager:
        manager.start(config)
        manager.wait_logged("camera.down")
        password.write_text("canary-after\n")
        manager.daemon.send_signal(signal.SIGHUP)
        reloaded = manager.wait_logged("config.reloaded")
        assert reloaded["cameras_restarted"] == ["door"]
        manager.wait_logged("camera.down")
        password.unlink()
        manager.daemon.send_signal(signal.SIGHUP)
        [error] = manager.wait_logged("config.refused")["errors"]
        assert "cameras[1].url: ${credential:door}: No such file or directory" in error
        assert manager.stop() == 0
    assert "canary" not in json.dumps(manager.lines)


@pytest.mark.parametrize(("wrong", "said"), [("sitte = 1\n", "sitte: unknown key"), ("site = \n", "not TOML")])
def test_a_configuration_that_is_wrong_at_the_start_is_said_in_one_line(tmp_path: Path, wrong: str, said: str) -> None:
    """Case 53: at each start anew; that systemd goes on trying is seen in `make systemd-test`."""
    config = a_config(tmp_path)
    config.write_text(wrong + config.read_text())
    for _ in range(2):
        done = lva("run", "--config", str(config))
        assert (done.returncode, done.stdout) == (78, "")
        assert said in done.stderr
        assert len(done.stderr.splitlines()) == 1
