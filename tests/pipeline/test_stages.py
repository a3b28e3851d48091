"""The whole way of an event, measured by a clock that the test sets."""

from datetime import UTC, datetime, timedelta

from pipeline.events import Event, Priority
from pipeline.identity import fresh_id
from pipeline.stages import ON_THEIR_WAY_MAX, Stages
from tests.pipeline.makers import an_event


class SetClock:
    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def seen_ago(seconds: float, priority: Priority = Priority.MEDIUM, jpeg: bytes = b"picture") -> Event:
    return an_event(priority, captured_at=datetime.now(UTC) - timedelta(seconds=seconds), jpeg=jpeg)


def measured(stages: Stages, name: str, **labels: str) -> tuple[int, float]:
    """How often, and how long altogether."""
    count = stages.registry.get_sample_value(f"{name}_count", labels)
    seconds = stages.registry.get_sample_value(f"{name}_sum", labels)
    return int(count or 0), round(seconds or 0.0)


def test_the_whole_way_ends_when_the_database_has_the_outcome() -> None:
    clock = SetClock()
    stages = Stages(clock)
    event = seen_ago(2.0, Priority.CRITICAL)
    stages.accepted(event, 0.001, asked=True)
    clock.now_s += 30
    for _ in range(2):  # a row that is sent again is the same row
        stages.stored(event.id)
    assert measured(stages, "lva_capture_to_accept_seconds") == (1, 2)
    assert measured(stages, "lva_e2e_duration_seconds", priority="critical") == (1, 32)


def test_an_event_that_nobody_is_asked_about_has_no_whole_way() -> None:
    stages = Stages()
    event = seen_ago(1.0)
    stages.accepted(event, 0.001, asked=False)
    stages.stored(event.id)
    stages.stored(fresh_id())
    assert measured(stages, "lva_e2e_duration_seconds", priority="medium") == (0, 0)
    assert measured(stages, "lva_capture_to_accept_seconds") == (1, 1)


def test_without_a_picture_there_is_no_capture_to_measure_from() -> None:
    stages = Stages()
    stages.accepted(seen_ago(1.0, jpeg=b""), 0.001, asked=False)
    assert measured(stages, "lva_capture_to_accept_seconds") == (0, 0)
    assert measured(stages, "lva_journal_commit_seconds") == (1, 0)


def test_a_clock_that_was_set_meanwhile_makes_no_measurement() -> None:
    stages = Stages()
    for event in (seen_ago(-60.0), seen_ago(365 * 86400.0)):
        stages.accepted(event, 0.001, asked=True)
        stages.stored(event.id)
    assert measured(stages, "lva_capture_to_accept_seconds") == (0, 0)
    assert measured(stages, "lva_e2e_duration_seconds", priority="medium") == (0, 0)


def test_what_is_remembered_is_bounded() -> None:
    stages = Stages()
    first, *others = [seen_ago(0.5) for _ in range(ON_THEIR_WAY_MAX + 1)]
    for event in (first, *others):
        stages.accepted(event, 0.001, asked=True)
    stages.stored(first.id)
    assert measured(stages, "lva_e2e_duration_seconds", priority="medium")[0] == 0
    stages.stored(others[0].id)
    assert measured(stages, "lva_e2e_duration_seconds", priority="medium")[0] == 1
