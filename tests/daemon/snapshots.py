"""Snapshots as a daemon would take them."""

from dataclasses import replace
from typing import Any

from daemon.snapshot import (
    CameraSnapshot,
    DatabaseSnapshot,
    EventsSnapshot,
    JournalSnapshot,
    ProcessSnapshot,
    QueueSnapshot,
    Snapshot,
)
from pipeline.camera import CameraState
from providers.tally import ProviderStats, Tally, stats_of


def a_camera(name: str = "yard", state: CameraState = CameraState.UP, **changes: Any) -> CameraSnapshot:
    fine = CameraSnapshot(name, state, 900, 300, {"pace": 600}, 1, 30.0, 10.0, 20.0, 0.0, "")
    return replace(fine, **changes)


def a_provider(name: str = "moondream", state: str = "up", **changes: Any) -> ProviderStats:
    return replace(stats_of(name, state, Tally(asked=5, answered=4, seconds=6.0)), **changes)


def a_snapshot(**changes: Any) -> Snapshot:
    """Of a daemon with which all is well."""
    fine = Snapshot(
        site="test",
        version="0.1.0",
        uptime_s=3723.0,
        cameras=(a_camera(),),
        events=EventsSnapshot({"object_appeared": 5}, 0, {"done": 5}, 0, 0, {}),
        queue=QueueSnapshot({"critical": 0, "high": 0, "medium": 0, "low": 0}, 0, 0.0),
        journal=JournalSnapshot(),
        database=DatabaseSnapshot("up", "", "", 0.0, 0, 15, 0),
        providers=(a_provider(),),
        process=ProcessSnapshot(200_000_000, 40, 12, 33.0),
        log_lines_dropped=0,
        configuration_refused="",
    )
    return replace(fine, **changes)
