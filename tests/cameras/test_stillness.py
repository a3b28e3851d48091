"""What is left out because nothing happens in it."""

from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest

from pipeline.letterbox import Picture
from pipeline.motion import MOTION_HOLD_S, MotionGate, thumbnail
from tests.cameras.pictures import a_clip, scene
from tests.cameras.watching import all_frames, frames, watching


def noisy(picture: Picture, seed: int) -> Picture:
    noise = np.random.default_rng(seed).normal(0, 6, picture.shape)
    return np.clip(picture + noise, 0, 255).astype(np.uint8)


def looks(gate: MotionGate, pictures: list[Picture], fps: float = 10.0) -> list[bool]:
    return [gate.look(thumbnail(picture), index / fps).handed for index, picture in enumerate(pictures)]


async def test_a_still_clip_hands_over_almost_nothing(tmp_path: Path) -> None:
    clip = a_clip(tmp_path / "still.mp4", frames=200, moves=False)
    async with watching(clip, pace="full", motion=True, still_refresh_s=5) as camera:
        seen = await all_frames(camera)
        stats = camera.stats
    assert len(seen) <= MOTION_HOLD_S * 10 + 20 / 5 + 1
    assert stats.dropped_by_cause["still"] + len(seen) == stats.frames_grabbed == 200


async def test_the_active_clock_leaves_the_still_spans_out(tmp_path: Path) -> None:
    clip = a_clip(tmp_path / "still.mp4", frames=150, moves=False)
    async with watching(clip, pace="full", motion=True, still_refresh_s=5) as camera:
        seen = await frames(camera, 12)
    steps = [later.active_s - frame.active_s for frame, later in pairwise(seen)]
    assert steps == pytest.approx([0.1] * 11)
    assert seen[-1].stream_s - seen[-2].stream_s == pytest.approx(5.0)


async def test_a_moving_clip_hands_over_everything(tmp_path: Path) -> None:
    async with watching(a_clip(tmp_path / "clip.mp4", frames=60), pace="full", motion=True) as camera:
        assert len(await all_frames(camera)) == 60


def test_noise_is_not_motion() -> None:
    handed = looks(MotionGate(True, refresh_s=100), [noisy(scene(0, moves=False), seed) for seed in range(40)])
    assert sum(handed) == MOTION_HOLD_S * 10


def test_what_creeps_is_seen_in_the_end() -> None:
    still = [scene(0, moves=False)] * 15
    creeping = []
    for step in range(60):
        picture = scene(0, moves=False)
        cv2.rectangle(picture, (200 + step // 4, 100), (216 + step // 4, 140), (10, 10, 10), -1)
        creeping.append(picture)
    handed = looks(MotionGate(True, refresh_s=100), still + creeping)
    assert not any(handed[10:15])
    assert handed[15]
    assert sum(handed[15:]) > 15


def test_a_small_thing_far_away_is_motion() -> None:
    pictures = [scene(0, moves=False) for _ in range(30)]
    pictures[20][100:120, 250:258] = 0  # 8 × 20 pixels of 320 × 240
    handed = looks(MotionGate(True, refresh_s=100), pictures)
    assert not handed[19]
    assert handed[20]


def test_with_motion_off_everything_is_handed_over() -> None:
    assert all(looks(MotionGate(False, refresh_s=100), [scene(0, moves=False)] * 30))
