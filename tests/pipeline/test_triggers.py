from pipeline.events import EventKind, Priority
from pipeline.tracks import Track, Tracked
from pipeline.triggers import (
    CrowdGatheringSettings,
    Finding,
    ObjectAppearedSettings,
    ObjectLeftSettings,
    Triggers,
    TriggerSettings,
    watched_labels,
)
from providers.base import Box

PEOPLE = frozenset({"person"})


def a_track(track_id: int, label: str = "person", first_s: float = 0.0, last_s: float = 0.0) -> Track:
    return Track(track_id, label, first_s, last_s, last_s, Box(0.1, 0.1, 0.2, 0.5), 0.9)


def appear(triggers: Triggers, *tracks: Track, at_s: float = 0.0) -> list[Finding]:
    return triggers.update(Tracked(tracks, tracks, ()), tracks, at_s)


def leave(triggers: Triggers, *tracks: Track, at_s: float = 0.0) -> list[Finding]:
    return triggers.update(Tracked((), (), tracks), (), at_s)


def crowd(triggers: Triggers, count: int, at_s: float) -> list[Finding]:
    people = tuple(a_track(index) for index in range(count))
    return triggers.update(Tracked(people, (), ()), people, at_s)


def test_an_object_is_announced_with_its_priority_and_reason() -> None:
    [finding] = appear(Triggers(TriggerSettings(), PEOPLE), a_track(1))
    assert (finding.kind, finding.priority, finding.track_id) == (EventKind.OBJECT_APPEARED, Priority.MEDIUM, 1)
    assert finding.reason == "person appeared, 90% sure"


def test_an_object_of_another_label_is_no_event() -> None:
    assert appear(Triggers(TriggerSettings(), PEOPLE), a_track(1, "chair")) == []


def test_who_leaves_was_announced_before_and_it_is_said_how_long_they_stayed() -> None:
    triggers = Triggers(TriggerSettings(), PEOPLE)
    appear(triggers, track := a_track(1, first_s=2.0, last_s=14.0))
    [finding] = leave(triggers, track)
    assert (finding.kind, finding.reason) == (EventKind.OBJECT_LEFT, "person left after 12 s")
    assert leave(triggers, a_track(2)) == []


def test_the_cooldown_starts_only_with_an_event_that_was_made_and_what_it_eats_is_counted() -> None:
    triggers = Triggers(TriggerSettings(object_appeared=ObjectAppearedSettings(cooldown_s=10)), PEOPLE)
    assert appear(triggers, a_track(1, "chair"), at_s=0) == []
    assert len(appear(triggers, a_track(2), at_s=1)) == 1
    assert appear(triggers, a_track(3), at_s=10.5) == []
    assert len(appear(triggers, a_track(4), at_s=11)) == 1
    assert triggers.suppressed[EventKind.OBJECT_APPEARED] == 1


def test_leaving_has_a_cooldown_of_its_own() -> None:
    triggers = Triggers(TriggerSettings(object_left=ObjectLeftSettings(cooldown_s=10)), PEOPLE)
    appear(triggers, *(tracks := [a_track(index) for index in range(3)]))
    told = [len(leave(triggers, track, at_s=at_s)) for track, at_s in zip(tracks, [5, 14, 15], strict=True)]
    assert told == [1, 0, 1]
    assert triggers.suppressed[EventKind.OBJECT_LEFT] == 1


def test_an_object_whose_appearance_was_not_told_does_not_leave() -> None:
    triggers = Triggers(TriggerSettings(object_appeared=ObjectAppearedSettings(cooldown_s=10)), PEOPLE)
    appear(triggers, a_track(1), a_track(2))
    assert [finding.track_id for finding in leave(triggers, a_track(1), a_track(2))] == [1]


def test_a_crowd_is_told_once_when_it_has_lasted() -> None:
    triggers = Triggers(TriggerSettings(crowd_gathering=CrowdGatheringSettings(count=4, for_s=3, cooldown_s=0)), PEOPLE)
    assert [bool(crowd(triggers, count, at_s)) for count, at_s in [(3, 0), (4, 1), (5, 3.9), (4, 4), (6, 9)]] == [
        False,
        False,
        False,
        True,
        False,
    ]


def test_a_crowd_that_breaks_up_and_gathers_again_is_another_one_after_the_cooldown() -> None:
    triggers = Triggers(
        TriggerSettings(crowd_gathering=CrowdGatheringSettings(count=2, for_s=0, cooldown_s=60)), PEOPLE
    )
    told = [bool(crowd(triggers, count, at_s)) for count, at_s in [(2, 0), (1, 1), (2, 2), (1, 61), (2, 62)]]
    assert told == [True, False, False, False, True]


def test_a_crowd_must_last_without_a_break() -> None:
    triggers = Triggers(TriggerSettings(crowd_gathering=CrowdGatheringSettings(count=2, for_s=3)), PEOPLE)
    assert not any(crowd(triggers, count, at_s) for count, at_s in [(2, 0), (1, 2), (2, 3), (2, 5)])


def test_rules_can_be_switched_off() -> None:
    off = TriggerSettings(
        object_appeared=ObjectAppearedSettings(enabled=False),
        object_left=ObjectLeftSettings(enabled=False),
        crowd_gathering=CrowdGatheringSettings(enabled=False),
    )
    triggers = Triggers(off, PEOPLE)
    assert appear(triggers, *(a_track(index) for index in range(9))) == []
    assert leave(triggers, a_track(1)) == []


def test_without_configuration_what_moves_by_itself_is_watched_or_all_that_a_special_model_knows() -> None:
    assert watched_labels(TriggerSettings(), ["person", "chair", "car"]) == {"person", "car"}
    assert watched_labels(TriggerSettings(), ["forklift", "pallet"]) == {"forklift", "pallet"}
    assert watched_labels(TriggerSettings(objects=("chair",)), ["person", "chair"]) == {"chair"}
