"""The sentence that `systemctl status` shows, and what a real daemon sends of it."""

import re
from itertools import pairwise
from pathlib import Path
from typing import Any

from daemon.snapshot import DatabaseSnapshot, JournalSnapshot, QueueSnapshot
from daemon.summary import sentence, short
from pipeline.camera import CameraState
from tests.daemon.snapshots import a_camera, a_provider, a_snapshot
from tests.daemon.test_run import a_config
from tests.faults.service_manager import ServiceManager


def test_when_all_is_well_it_is_short() -> None:
    assert sentence(a_snapshot()) == "cams 1/1, queue 0, pg ok, providers moondream:ok"


def test_what_waits_and_what_is_down_is_told_with_its_age() -> None:
    told = sentence(
        a_snapshot(
            cameras=(*(a_camera(f"cam{number}") for number in range(3)), a_camera("door", CameraState.DOWN)),
            queue=QueueSnapshot({}, 0, 8.4),
            journal=JournalSnapshot(waiting=10, leased=2, outbox=140, dead_letters=1),
            database=DatabaseSnapshot("down", "Connection refused", "transient", 190.0, 3, 0, 0),
            providers=(a_provider(state="down"), a_provider("ollama")),
        )
    )
    assert told == (
        "cams 3/4 (door down), queue 12, oldest 8s, pending 140, pg down 3m (Connection refused), dead letters 1, "
        "providers moondream:down ollama:ok"
    )


def test_many_cameras_that_are_down_are_counted() -> None:
    told = sentence(a_snapshot(cameras=tuple(a_camera(f"cam{number}", CameraState.DOWN) for number in range(5))))
    assert told.startswith("cams 0/5 (cam0 down, cam1 down, cam2 down, 2 more), ")


def test_a_configuration_that_was_refused_is_told() -> None:
    assert sentence(a_snapshot(configuration_refused="sight: unknown key")).endswith(
        ", configuration refused: sight: unknown key"
    )


def test_an_age_is_its_largest_unit() -> None:
    ages = (0, 8.4, 59.9, 60, 7199, 7200, 200_000)
    assert " ".join(map(short, ages)) == "0s 8s 59s 1m 1h 2h 2d"


def test_the_service_manager_is_told_how_it_goes_once_for_each_change(tmp_path: Path) -> None:
    live: dict[str, Any] = {"pace": "realtime", "loop": True}
    with ServiceManager(tmp_path) as manager:
        manager.start(a_config(tmp_path, **live))
        manager.wait_logged("event.analyzed")
        manager.wait_said(lambda said: re.match(r"cams 1/1, queue \d+, .*pg ok", said.get("STATUS", "")))
        assert manager.stop() == 0
    told = manager.statuses()
    assert all(before != after for before, after in pairwise(told))
    assert told[-1].startswith("draining")
