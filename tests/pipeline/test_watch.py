import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta, tzinfo
from typing import Self
from uuid import UUID

import numpy as np
import pytest

from pipeline.camera_events import CameraGone, Ended, Frame, Lost, Opened
from pipeline.camera_link import LossCause
from pipeline.detector import Detector
from pipeline.events import Event, EventKind, Gap, Priority
from pipeline.identity import Recording
from pipeline.letterbox import Picture, fit
from pipeline.observer import Observer
from pipeline.tracker import Tracker
from pipeline.tracks import TrackerSettings
from pipeline.triggers import (
    CameraDownSettings,
    CrowdGatheringSettings,
    ObjectAppearedSettings,
    Triggers,
    TriggerSettings,
)
from pipeline.watch import FAILURES_IN_A_ROW, Watch
from pipeline.yolo import Detections, DetectorBrokenError, DetectorError
from tests.pipeline.makers import NOW, seen

LETTERBOX = fit(640, 360, 64, 64)
OPENED = Opened("h264", 640, 360, 10.0, 0.1)
LOST = Lost("connection refused", NOW, LossCause.REFUSED)


def a_frame(seq: int, stream_s: float | None = None) -> Frame:
    at = seq / 10 if stream_s is None else stream_s
    picture: Picture = np.zeros((64, 64, 3), np.uint8)
    return Frame("yard", seq, 0, picture, LETTERBOX, NOW + timedelta(seconds=at), at, at, 1.0)


class Script:
    """A camera that gives what it is told to, and waits for ever after."""

    def __init__(self, *items: Frame | Opened | Lost | Ended) -> None:
        self.items = list(items)
        self.released: list[int] = []
        self.encoded: list[int] = []
        self.gone = False
        self.dry = asyncio.Event()

    async def next(self) -> Frame | Opened | Lost | Ended:
        if not self.items:
            self.dry.set()
            await asyncio.Event().wait()
        return self.items.pop(0)

    async def jpeg(self, frame: Frame) -> bytes:
        assert frame.seq not in self.released
        if self.gone:
            raise CameraGone(frame.camera)
        self.encoded.append(frame.seq)
        return b"jpeg of %d" % frame.seq

    def release(self, frame: Frame) -> None:
        self.released.append(frame.seq)


class Eyes:
    """A detector that has been told what it will see."""

    def __init__(self, views: Sequence[Detections | DetectorError]) -> None:
        self.views = list(views)

    def submit(self, _picture: Picture, _letterbox: object) -> asyncio.Future[Detections]:
        done: asyncio.Future[Detections] = asyncio.get_running_loop().create_future()
        view = self.views.pop(0)
        if isinstance(view, DetectorError):
            done.set_exception(view)
        else:
            done.set_result(view)
        return done


class Notebook:
    def __init__(self) -> None:
        self.events: list[Event] = []
        self.gaps: list[Gap] = []
        self.written = asyncio.Event()

    async def event(self, event: Event, replayed: bool = False) -> None:
        self.events.append(event)
        self.written.set()

    async def gap(self, gap: Gap) -> None:
        self.gaps.append(gap)

    def kinds(self) -> list[EventKind]:
        return [event.kind for event in self.events]


def an_observer(settings: TriggerSettings | None = None, recording: Recording | None = None) -> Observer:
    triggers = Triggers(settings or TriggerSettings(), frozenset({"person"}))
    tracker = Tracker(TrackerSettings(lost_s=0.5), 10)
    return Observer("test", "yard", tracker, triggers, lambda kind: kind is not EventKind.OBJECT_LEFT, recording)


def walking(frames: int, size: float = 0.1, confidence: float = 0.9, grows: float = 0.0) -> list[Detections]:
    return [
        seen((0.1 + 0.005 * n, 0.3, 0.2 + 0.005 * n + grows * n, 0.3 + size * 4, confidence)) for n in range(frames)
    ]


async def watch(script: Script, views: Sequence[Detections | DetectorError], **options: object) -> Notebook:
    notebook = Notebook()
    observer = options.pop("observer", None) or an_observer()
    detector: Detector = Eyes(views)  # type: ignore[assignment]
    settings = options.pop("down", CameraDownSettings())
    await asyncio.wait_for(
        Watch(script, detector, observer, notebook, settings, **options).run(asyncio.Event()),  # type: ignore[arg-type]
        timeout=10,
    )
    return notebook


async def test_a_person_who_walks_in_and_out_is_one_event_and_its_end_names_it() -> None:
    script = Script(OPENED, *(a_frame(seq) for seq in range(30)), Ended())
    notebook = await watch(script, walking(20) + [seen()] * 10)
    appeared, left = notebook.events
    assert (appeared.kind, left.kind) == (EventKind.OBJECT_APPEARED, EventKind.OBJECT_LEFT)
    assert left.related_id == appeared.id
    assert appeared.jpeg.startswith(b"jpeg of")
    assert [detection.label for detection in appeared.detections] == ["person"]
    assert sorted(script.released) == list(range(30))


async def test_the_best_of_the_first_pictures_is_the_one_that_is_kept() -> None:
    script = Script(OPENED, *(a_frame(seq) for seq in range(12)), Ended())
    notebook = await watch(script, walking(12, grows=0.02))
    [event] = notebook.events
    assert event.jpeg == b"jpeg of %d" % max(script.encoded)
    assert event.captured_at == a_frame(max(script.encoded)).captured_at
    assert len(script.encoded) < 7


async def test_who_was_just_appearing_when_the_file_ends_is_told_all_the_same() -> None:
    script = Script(OPENED, *(a_frame(seq) for seq in range(5)), Ended())
    assert (await watch(script, walking(5))).kinds() == [EventKind.OBJECT_APPEARED]


async def test_an_event_whose_picture_died_with_the_camera_is_told_without_it() -> None:
    script = Script(OPENED, *(a_frame(seq) for seq in range(10)), Ended())
    script.gone = True
    [event] = (await watch(script, walking(10))).events
    assert event.jpeg == b""


async def test_a_camera_that_comes_back_soon_leaves_a_gap_and_no_alarm() -> None:
    notebook = await watch(Script(OPENED, LOST, OPENED, Ended()), [])
    assert notebook.kinds() == []
    [gap] = notebook.gaps
    assert (gap.started_at, gap.reason) == (NOW, "connection refused")
    assert gap.ended_at > gap.started_at


async def test_a_camera_that_stays_away_is_told_as_down_once_and_as_back_when_it_is() -> None:
    script = Script(OPENED, LOST)
    notebook = Notebook()
    down = CameraDownSettings(after_s=0.01, priority=Priority.CRITICAL)
    watching = asyncio.create_task(Watch(script, Eyes([]), an_observer(), notebook, down).run(stop := asyncio.Event()))  # type: ignore[arg-type]
    await asyncio.wait_for(notebook.written.wait(), 5)
    assert notebook.kinds() == [EventKind.CAMERA_DOWN]
    assert "connection refused" in notebook.events[0].reason
    stop.set()
    await asyncio.wait_for(watching, 5)
    assert len(notebook.gaps) == 1


async def test_back_names_the_down_that_it_ends_and_says_after_how_long_whatever_the_wall_clock_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Set(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Self:
            return super().now(tz) + timedelta(hours=1)

    class Slow(Script):
        async def next(self) -> Frame | Opened | Lost | Ended:
            if isinstance(self.items[0], Opened) and len(self.items) == 2:
                await notebook.written.wait()
                monkeypatch.setattr("pipeline.watch.datetime", Set)
            return await super().next()

    notebook = Notebook()
    script = Slow(OPENED, LOST, OPENED, Ended())
    await asyncio.wait_for(
        Watch(script, Eyes([]), an_observer(), notebook, CameraDownSettings(after_s=0.01)).run(asyncio.Event()),  # type: ignore[arg-type]
        5,
    )
    down, back = notebook.events
    assert (down.kind, back.kind, back.related_id) == (EventKind.CAMERA_DOWN, EventKind.CAMERA_BACK, down.id)
    assert back.reason == "camera is back after 0 s"


async def test_a_camera_that_comes_and_goes_is_told_once_in_its_cooldown() -> None:
    class Flapping(Script):
        async def next(self) -> Frame | Opened | Lost | Ended:
            if isinstance(self.items[0], Opened) and len(self.items) < 6:
                await asyncio.sleep(0.2)  # longer than after_s: it counts as down
            return await super().next()

    script = Flapping(OPENED, LOST, OPENED, LOST, OPENED, Ended())
    notebook = await watch(script, [], down=CameraDownSettings(after_s=0.01, cooldown_s=3600))
    assert notebook.kinds() == [EventKind.CAMERA_DOWN, EventKind.CAMERA_BACK]
    assert len(notebook.gaps) == 2


async def test_after_a_break_the_same_person_is_somebody_new() -> None:
    frames = [a_frame(seq) for seq in range(10)]
    script = Script(OPENED, *frames, LOST, OPENED, *(a_frame(seq, seq / 10 - 1) for seq in range(10, 20)), Ended())
    notebook = await watch(script, walking(10) + walking(10))
    assert notebook.kinds() == [EventKind.OBJECT_APPEARED] * 2


async def test_a_picture_that_changes_its_size_does_not_set_the_clock_of_the_rules() -> None:
    settings = TriggerSettings(
        object_appeared=ObjectAppearedSettings(enabled=False),
        crowd_gathering=CrowdGatheringSettings(count=2, for_s=0.2, cooldown_s=60),
    )
    two = seen((0.1, 0.3, 0.2, 0.7, 0.9), (0.6, 0.3, 0.7, 0.7, 0.9))
    first = [a_frame(seq, 70 + seq / 10) for seq in range(10)]
    then = [replace(a_frame(seq, 70 + seq / 10), letterbox=fit(320, 240, 64, 64)) for seq in range(10, 20)]
    script = Script(OPENED, *first, *then, Ended())
    notebook = await watch(script, [two] * 20, observer=an_observer(settings))
    assert notebook.kinds() == [EventKind.CROWD_GATHERING]


async def test_a_frame_that_the_detector_failed_at_is_not_an_empty_scene() -> None:
    views: list[Detections | DetectorError] = [*walking(20)]
    views[8:12] = [DetectorError("out of memory")] * 4
    script = Script(OPENED, *(a_frame(seq) for seq in range(20)), Ended())
    assert (await watch(script, views)).kinds() == [EventKind.OBJECT_APPEARED]
    assert sorted(script.released) == list(range(20))


async def test_a_detector_that_only_fails_ends_the_watch() -> None:
    script = Script(OPENED, *(a_frame(seq) for seq in range(20)), Ended())
    with pytest.raises(ExceptionGroup) as failure:
        await watch(script, [*[DetectorError("gone")] * FAILURES_IN_A_ROW, *walking(20)])
    assert failure.group_contains(DetectorBrokenError)


async def test_a_stop_leaves_nothing_undone() -> None:
    script = Script(OPENED, *(a_frame(seq) for seq in range(5)))
    notebook = Notebook()
    stop = asyncio.Event()
    watching = asyncio.create_task(
        Watch(script, Eyes(walking(5)), an_observer(), notebook, CameraDownSettings()).run(stop)  # type: ignore[arg-type]
    )
    await asyncio.wait_for(script.dry.wait(), 5)
    stop.set()
    await asyncio.wait_for(watching, 5)
    assert notebook.kinds() == [EventKind.OBJECT_APPEARED]


async def test_a_source_that_may_be_read_only_once_is_over_when_it_is_lost() -> None:
    notebook = Notebook()
    watch_once = Watch(Script(LOST), Eyes([]), an_observer(), notebook, CameraDownSettings(), only_once=True)  # type: ignore[arg-type]
    await asyncio.wait_for(watch_once.run(asyncio.Event()), 5)
    assert watch_once.lost == "connection refused"


async def test_a_crowd_has_its_own_picture() -> None:
    settings = TriggerSettings(
        object_appeared=ObjectAppearedSettings(enabled=False),
        crowd_gathering=CrowdGatheringSettings(count=2, for_s=0.2),
    )
    two = seen((0.1, 0.3, 0.2, 0.7, 0.9), (0.6, 0.3, 0.7, 0.7, 0.9))
    script = Script(OPENED, *(a_frame(seq) for seq in range(10)), Ended())
    [event] = (await watch(script, [two] * 10, observer=an_observer(settings))).events
    assert (event.kind, event.priority, len(event.detections)) == (EventKind.CROWD_GATHERING, Priority.HIGH, 2)
    assert event.jpeg


async def test_the_same_recording_gives_the_same_ids_and_another_one_others(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    async def ids(content: bytes) -> list[UUID]:
        file = tmp_path_factory.getbasetemp() / "clip.mp4"
        if not file.exists() or file.read_bytes() != content:
            file.write_bytes(content)
        script = Script(OPENED, *(a_frame(seq) for seq in range(30)), Ended())
        observer = an_observer(recording=Recording("test", "yard", file))
        return [event.id for event in (await watch(script, walking(20) + [seen()] * 10, observer=observer)).events]

    first = await ids(b"one clip")
    assert await ids(b"one clip") == first
    assert len(set(first)) == 2
    assert {event_id.version for event_id in first} == {7}
    assert not set(await ids(b"another clip")) & set(first)
