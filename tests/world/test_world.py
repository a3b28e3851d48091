"""The drawn world says the truth about itself, and what was made from it is fit for use."""

import hashlib
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from pipeline.detector import DetectorSettings, network_loader
from pipeline.tracker import Tracker
from pipeline.tracks import TrackerSettings
from tests.world.actors import Actor, Look
from tests.world.camera import HEIGHT_PX, WIDTH_PX
from tests.world.canvas import Picture
from tests.world.clip import truth_path
from tests.world.events import Moment, true_events
from tests.world.render import Frame, Renderer
from tests.world.scene import Film, Scene, frame_times, random_scene
from tests.world.score import detect_with, mean_average_precision, overlap, score, unseen
from tests.world.stills import LABELS
from tests.world.yard import FPS, yard_scene

DEMO = Path(__file__).parents[2] / "daemon" / "demo"
CLIP = DEMO / "yard.mp4"
MODEL = DEMO / "world-yolo11n.onnx"
SIZE_PX = DetectorSettings().size_px
DETECT_FPS = 10.0
DETECTOR = DetectorSettings(model=MODEL, precision="f32")
CLEAN = Film(noise=0.0, blur_px=0.0, shutter=0.0)


def fingerprint(frame: Frame) -> str:
    seen = repr([(one.state, one.box, one.visible) for one in frame.seen])
    return hashlib.sha256(frame.picture.tobytes() + seen.encode()).hexdigest()


def test_a_seed_always_gives_the_same_frames_and_truth() -> None:
    one, other = (Renderer(random_scene(7)) for _ in range(2))
    assert [fingerprint(one.frame(at_s)) for at_s in (3.0, 9.0)] == [
        fingerprint(other.frame(at_s)) for at_s in (3.0, 9.0)
    ]


def test_another_seed_gives_another_scene() -> None:
    assert fingerprint(Renderer(random_scene(7)).frame(9.0)) != fingerprint(Renderer(random_scene(8)).frame(9.0))


def test_a_frame_does_not_depend_on_the_frames_before() -> None:
    renderer = Renderer(random_scene(9))
    first = fingerprint(renderer.frame(6.0))
    renderer.frame(3.0)
    assert fingerprint(renderer.frame(6.0)) == first


@pytest.mark.parametrize("seed", range(20, 32))
def test_boxes_lie_in_the_picture_and_visible_is_a_share(seed: int) -> None:
    for seen in Renderer(random_scene(seed)).frame(8.0).seen:
        left, top, right, bottom = seen.box
        assert 0 <= left < right <= WIDTH_PX
        assert 0 <= top < bottom <= HEIGHT_PX
        assert 0 < seen.visible <= 1


@pytest.mark.parametrize("seed", range(40, 52))
def test_a_box_holds_exactly_the_pixels_that_change_with_the_actor_s_colours(seed: int) -> None:
    scene = replace(random_scene(seed), film=CLEAN, lights=yard_scene().lights)
    before = Renderer(painted(scene, None)).frame(8.0)
    for seen in before.seen:
        if seen.state.actor.label == "car" or seen.visible < 0.5:
            continue  # tyres keep their colour; slivers shine through others' soft edges
        after = Renderer(painted(scene, seen.state.actor.id)).frame(8.0)
        left, top, width, height = cv2.boundingRect(difference(before.picture, after.picture))
        changed = (left, top, left + width, top + height)
        assert np.abs(np.subtract(changed, seen.box)).max() <= 1, (seen, changed)


def painted(scene: Scene, other_id: int | None) -> Scene:
    """All actors in one colour from head to foot, but one in another."""
    paint = [recoloured(actor, light=actor.id == other_id) for actor in scene.actors]
    return replace(scene, actors=tuple(paint))


def recoloured(actor: Actor, light: bool) -> Actor:
    colour, skin, hair = ("white", 0, 3) if light else ("blue", 4, 0)
    hat = colour if actor.look.hat else None
    look: Look = replace(actor.look, top=colour, bottom=colour, hat=hat, skin=skin, hair=hair, shade=1.0)
    return replace(actor, look=look)


def difference(one: Picture, other: Picture) -> Picture:
    """Where at least half of a pixel is another colour, as a mask."""
    return np.asarray(cv2.absdiff(one, other).max(axis=2) > 38, np.uint8)


def test_who_is_hidden_is_told_to_be_less_visible() -> None:
    scene = yard_scene()
    alone = replace(scene, actors=tuple(actor for actor in scene.actors if actor.label == "car"))
    car, hidden_car = (
        next(seen for seen in Renderer(one).frame(11.7).seen if seen.state.actor.label == "car")
        for one in (alone, scene)
    )
    assert car.visible == 1.0
    assert 0.5 < hidden_car.visible < 0.95


def test_the_yard_tells_its_story() -> None:
    scene, renderer = yard_scene(), Renderer(yard_scene())
    moments = [Moment(at_s, scene.at(at_s), renderer.frame(at_s).seen) for at_s in frame_times(scene.duration_s, 2.0)]
    events = true_events(moments)
    assert sorted(event.ids for event in events if event.kind == "in_view") == [(n,) for n in range(1, 9)]
    assert [len(event.ids) for event in events if event.kind == "crowd"] == [5]
    assert [event.ids for event in events if event.kind == "bag_left"] == [(8,)]


def test_the_clip_has_the_frames_that_its_truth_tells() -> None:
    clip, lines = read_clip(CLIP), truth_lines()
    assert lines[0]["frames"] == len(clip) == round(FPS * yard_scene().duration_s)
    assert [line["frame"] for line in lines if line["kind"] == "frame"] == list(range(len(clip)))
    assert clip[0].shape == (HEIGHT_PX, WIDTH_PX, 3)
    assert CLIP.stat().st_size <= 3_000_000


def test_the_clip_and_its_truth_are_what_the_yard_draws_today() -> None:
    clip, lines, renderer = read_clip(CLIP), truth_lines(), Renderer(yard_scene())
    for number in (60, 200, 330):
        frame, line = renderer.frame(number / FPS), lines[1 + number]
        assert np.abs(frame.picture.astype(np.int16) - clip[number]).mean() < 6
        assert [list(seen.box) for seen in frame.seen] == [found["box"] for found in line["objects"]]


def read_clip(path: Path) -> list[Picture]:
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    frames: list[Picture] = []
    while (grabbed := capture.read())[0]:
        frames.append(np.asarray(grabbed[1], np.uint8))
    return frames


def truth_lines() -> list[dict[str, Any]]:
    return [json.loads(line) for line in truth_path(CLIP).read_text().splitlines()]


def test_the_detector_is_small_and_names_its_classes() -> None:
    assert MODEL.stat().st_size <= 6_000_000
    info = network_loader(DETECTOR)().info
    assert (info.labels, info.end_to_end, info.fixed_input) == (LABELS, False, None)


def test_the_detector_finds_what_is_there_on_seeds_it_has_not_seen() -> None:
    scores = score(detect_with(network_loader(DETECTOR)(), SIZE_PX), unseen(60))
    assert mean_average_precision(scores) >= 0.9, scores
    assert min(one.precision for one in scores) >= 0.85, scores
    assert min(one.recall for one in scores) >= 0.75, scores


def test_both_runtimes_see_the_same() -> None:
    picture = Renderer(yard_scene()).frame(14.0).picture
    one, other = (
        detect_with(network_loader(settings)(), SIZE_PX)(picture)
        for settings in (DETECTOR, DetectorSettings(model=MODEL, backend="onnxruntime"))
    )
    sure = int((one.confidences > 0.6).sum())
    size = (WIDTH_PX, HEIGHT_PX, WIDTH_PX, HEIGHT_PX)
    assert sure == 7  # six people and a bag
    assert np.abs((one.boxes[:sure] - other.boxes[:sure]) * size).max() < 1.0
    assert np.abs(one.confidences[:sure] - other.confidences[:sure]).max() < 0.01


@pytest.mark.parametrize("size_px", [416, 640])
def test_the_daemon_s_tracker_tells_as_many_identities_as_actors_come(size_px: int) -> None:
    settings = DetectorSettings(model=MODEL)
    detect = detect_with(network_loader(settings)(), size_px, settings.confidence)
    tracker, labels = Tracker(TrackerSettings(), DETECT_FPS), Counter[str]()
    for number, picture in enumerate(read_clip(CLIP)):
        if number % 3 == 2:
            continue  # 15 frames/s become 10
        at_s = number / FPS
        tracked = tracker.update(detect(picture), WIDTH_PX, HEIGHT_PX, at_s, at_s)
        labels.update(track.label for track in tracked.appeared)
    assert labels == Counter(actor["label"] for actor in truth_lines()[0]["actors"])


def test_overlap_is_the_share_of_the_union() -> None:
    assert overlap(np.array([0, 0, 10, 10], np.float32), (5, 0, 15, 10)) == pytest.approx(1 / 3)
    assert overlap(np.array([0, 0, 10, 10], np.float32), (20, 0, 30, 10)) == 0.0
