from pipeline.tracker import Tracker
from pipeline.tracks import TrackerSettings
from tests.pipeline.makers import seen

WIDTH, HEIGHT, FPS = 640, 360, 10


def walk(tracker: Tracker, frames: int, start: int = 0, confidence: float = 0.9) -> list[tuple[int, int]]:
    """One person walking to the right; returns (appeared, left) counts of each frame."""
    told = []
    for index in range(start, start + frames):
        x = 0.1 + 0.005 * index
        tracked = tracker.update(seen((x, 0.3, x + 0.1, 0.8, confidence)), WIDTH, HEIGHT, index / FPS, index / FPS)
        told.append((len(tracked.appeared), len(tracked.left)))
    return told


def nothing(tracker: Tracker, frames: int, start: int) -> int:
    return sum(
        len(tracker.update(seen(), WIDTH, HEIGHT, index / FPS, index / FPS).left)
        for index in range(start, start + frames)
    )


def test_an_object_appears_once_when_it_has_been_confirmed() -> None:
    tracker = Tracker(TrackerSettings(confirm_frames=3), FPS)
    told = walk(tracker, 20)
    assert sum(appeared for appeared, _ in told) == 1
    assert told[:2] == [(0, 0), (0, 0)]


def test_it_has_left_when_it_was_not_seen_for_long_enough() -> None:
    tracker = Tracker(TrackerSettings(lost_s=1.0), FPS)
    walk(tracker, 10)
    assert nothing(tracker, 9, start=10) == 0
    assert nothing(tracker, 5, start=19) == 1
    assert tracker.tracks == ()


def test_a_short_absence_does_not_make_it_another_object() -> None:
    tracker = Tracker(TrackerSettings(lost_s=2.0), FPS)
    walk(tracker, 10)
    nothing(tracker, 8, start=10)
    assert sum(appeared for appeared, _ in walk(tracker, 10, start=18)) == 0


def test_what_is_never_seen_surely_is_no_object() -> None:
    tracker = Tracker(TrackerSettings(start_confidence=0.7), FPS)
    assert sum(appeared for appeared, _ in walk(tracker, 20, confidence=0.5)) == 0


def test_nobody_gets_lost_while_the_picture_stands_still() -> None:
    tracker = Tracker(TrackerSettings(lost_s=1.0), FPS)
    walk(tracker, 10)
    still = tracker.update(seen((0.15, 0.3, 0.25, 0.8, 0.9)), WIDTH, HEIGHT, stream_s=600.0, active_s=1.0)
    assert (len(still.seen), still.left) == (1, ())


def test_after_a_reset_identities_are_never_used_again() -> None:
    tracker = Tracker(TrackerSettings(), FPS)
    walk(tracker, 10)
    [before] = tracker.reset()
    walk(tracker, 10, start=100)
    [after] = tracker.tracks
    assert after.id > before.id


def test_a_track_is_called_what_most_of_its_frames_say() -> None:
    tracker = Tracker(TrackerSettings(), FPS)
    walk(tracker, 10)
    box = (0.15, 0.3, 0.25, 0.8, 0.9)
    tracker.update(seen(box, label="dog"), WIDTH, HEIGHT, 1.0, 1.0)
    [track] = tracker.tracks
    assert track.label == "person"
