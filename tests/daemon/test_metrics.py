"""What Prometheus gets, read as Prometheus reads it."""

import signal
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from daemon.metrics import exposition, table
from daemon.percentiles import figures
from daemon.series import CAMERAS_MAX
from daemon.snapshot import DatabaseSnapshot, Snapshot
from pipeline.camera import CameraState
from pipeline.events import EventOutcome, Priority
from pipeline.stages import STAGES, Stages
from providers.base import Failure
from tests.daemon.snapshots import a_camera, a_provider, a_snapshot
from tests.daemon.test_http_surface import free_port
from tests.daemon.test_run import WAIT_S, Lines, a_config, finish, start, wait_for
from tests.pipeline.makers import an_event


def used_stages() -> Stages:
    """Gone through once by one event."""
    stages = Stages()
    event = an_event(Priority.HIGH, captured_at=datetime.now(UTC) - timedelta(seconds=3))
    stages.inferred(0.03)
    stages.accepted(event, 0.004, asked=True)
    stages.waited(event.priority, 0.2)
    stages.called("moondream", 0.1, 1.5)
    stages.uploaded(0.02)
    stages.stored(event.id)
    return stages


def families(now: Snapshot) -> dict[str, Metric]:
    return parsed(exposition(now, used_stages()).decode())


def parsed(text: str) -> dict[str, Metric]:
    """By the name that the table has: with _total, which the parser leaves off."""
    found = {family.name: family for family in text_string_to_metric_families(text)}
    return {f"{name}_total" if family.type == "counter" else name: family for name, family in found.items()}


def values(now: Snapshot, name: str) -> dict[tuple[str, ...], float]:
    """By the values of the labels, in the order of their names."""
    return {
        tuple(value for _, value in sorted(sample.labels.items())): sample.value
        for sample in families(now)[name].samples
    }


def rows() -> dict[str, list[str]]:
    return {cells[0].strip("`"): cells[1:] for cells in (line[2:-2].split(" | ") for line in table().splitlines()[2:])}


def test_the_table_has_every_series_as_it_is() -> None:
    told, found = rows(), families(a_snapshot())
    assert set(told) == set(found)
    for name, (kind, labels, meaning) in told.items():
        used = {label for sample in found[name].samples for label in sample.labels} - {"le"}
        assert (found[name].type, used) == (kind, set(filter(None, labels.split(", "))))
        assert found[name].documentation == meaning


def test_a_series_is_named_by_its_unit() -> None:
    for name, (kind, *_) in rows().items():
        assert name.startswith("lva_")
        assert name.endswith("_total") == (kind == "counter")
        assert kind != "histogram" or name.endswith("_seconds")


def test_labels_are_bounded_however_many_cameras_there_are() -> None:
    now = a_snapshot(cameras=tuple(a_camera(f"cam{number}") for number in range(CAMERAS_MAX + 2)))
    for name, family in families(now).items():
        cameras = {sample.labels["camera"] for sample in family.samples if "camera" in sample.labels}
        assert len(cameras) in (0, CAMERAS_MAX), name
    assert values(now, "lva_cameras")[()] == CAMERAS_MAX + 2


def test_a_camera_is_in_exactly_one_state() -> None:
    states = values(a_snapshot(cameras=(a_camera(state=CameraState.FROZEN),)), "lva_camera_state")
    assert {state for (_, state), value in states.items() if value} == {"frozen"}
    assert len(states) == len(CameraState)


def test_what_has_not_happened_yet_is_there_as_0() -> None:
    now = a_snapshot()
    assert set(values(now, "lva_events_total")) == {(outcome.value,) for outcome in EventOutcome}
    assert set(values(now, "lva_verification_failures_total")) == {("moondream", each.value) for each in Failure}
    assert values(now, "lva_events_dropped_total") == {("shed",): 0, ("expired",): 0, ("refused",): 0}


def test_a_database_that_is_down_is_seen() -> None:
    down = DatabaseSnapshot("down", "refused", "transient", 180.0, 3, 0, 0)
    assert values(a_snapshot(database=down), "lva_database_up") == {(): 0.0}
    assert values(a_snapshot(database=down), "lva_database_trouble")[("transient",)] == 1.0
    assert values(a_snapshot(), "lva_database_up") == {(): 1.0}


def test_a_provider_tells_what_it_did_and_cost() -> None:
    now = a_snapshot(providers=(a_provider(failures={"timeout": 1}, usd=0.25, tokens_in=7, asking=2),))
    assert values(now, "lva_verification_failures_total")[("moondream", "timeout")] == 1
    assert values(now, "lva_vlm_cost_usd_total") == {("moondream",): 0.25}
    assert values(now, "lva_vlm_tokens_total") == {("in", "moondream"): 7, ("out", "moondream"): 0}
    assert values(now, "lva_vlm_in_flight") == {("moondream",): 2}


def test_every_stage_has_its_figures() -> None:
    told = {each.name: each for each in figures(used_stages())}
    assert set(told) == {stage.name for stage in STAGES}
    whole_way = told["lva_e2e_duration_seconds"]
    assert (whole_way.labels, whole_way.count) == ({"priority": "high"}, 1)
    assert 2.0 < whole_way.p50_s <= 5.0
    assert told["lva_vlm_duration_seconds"].mean_s == pytest.approx(1.5)


def test_percentiles_lie_between_the_bounds_of_their_bucket() -> None:
    stages = Stages()
    for _ in range(90):
        stages.called("moondream", 0.0, 0.3)
    for _ in range(10):
        stages.called("moondream", 0.0, 7.0)
    (call,) = [each for each in figures(stages) if each.name == "lva_vlm_duration_seconds"]
    assert 0.2 < call.p50_s <= 0.5
    assert 5.0 < call.p95_s <= 10.0


def test_beyond_the_last_bucket_the_percentile_is_its_bound() -> None:
    stages = Stages()
    stages.called("moondream", 0.0, 99_999.0)
    (call,) = [each for each in figures(stages) if each.name == "lva_vlm_duration_seconds"]
    assert call.p95_s == 3600.0


def test_a_real_daemon_tells_all_of_them_and_has_measured_every_stage(tmp_path: Path) -> None:
    live: dict[str, Any] = {"pace": "realtime", "loop": True}
    port = free_port()
    daemon = start(a_config(tmp_path, f"[http]\nport = {port}", **live))
    lines: Lines = []
    try:
        wait_for(daemon, "event.analyzed", lines)
        until_s = time.monotonic() + 2 * WAIT_S
        unmeasured = {stage.name for stage in STAGES}
        while unmeasured and time.monotonic() < until_s:  # until the database has the first outcome
            time.sleep(0.5)
            with urlopen(f"http://127.0.0.1:{port}/metrics") as reply:
                found = parsed(reply.read().decode())
            unmeasured = {stage.name for stage in STAGES if not _count(found[stage.name])}
    finally:
        daemon.send_signal(signal.SIGTERM)
        assert finish(daemon, lines) == 0
    assert unmeasured == set()
    assert set(found) == set(rows())
    assert {sample.value for sample in found["lva_cameras_up"].samples} == {1.0}


def _count(histogram: Metric) -> float:
    return sum(sample.value for sample in histogram.samples if sample.name.endswith("_count"))
