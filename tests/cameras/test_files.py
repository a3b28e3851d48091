"""Video files and folders of pictures."""

import asyncio
import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from pipeline.camera import CameraGone, Ended, Frame, LossCause, Lost, Opened
from tests.cameras.giants import giant_png
from tests.cameras.pictures import a_clip, a_folder, scene
from tests.cameras.watching import all_frames, frames, until, watching

PETS = Path(__file__).parents[3] / "shared" / "media" / "pets09-s2l1.mp4"


async def test_at_full_pace_nothing_is_lost_and_every_run_is_the_same(tmp_path: Path) -> None:
    clip = a_clip(tmp_path / "clip.mp4", frames=60)
    runs = []
    for _ in range(2):
        async with watching(clip, pace="full") as camera:
            runs.append(await all_frames(camera))
    assert [seq for seq, _, _ in runs[0]] == list(range(60))
    assert [round(stream_s, 6) for _, stream_s, _ in runs[0]] == [index / 10 for index in range(60)]
    assert runs[0] == runs[1]


async def test_an_opened_file_says_what_it_is(tmp_path: Path) -> None:
    async with watching(a_clip(tmp_path / "clip.mp4", frames=5, size=(640, 360)), pace="full") as camera:
        opened = await until(camera, Opened)
    assert (opened.codec, opened.width, opened.height, opened.fps) == ("mpeg4", 640, 360, 10.0)
    assert 0 < opened.time_to_first_frame_s < 5


async def test_a_fast_clip_is_sampled_by_its_own_clock(tmp_path: Path) -> None:
    async with watching(a_clip(tmp_path / "clip.mp4", 60, fps=30.0), pace="full", detect_fps=10) as camera:
        assert [round(time_s, 3) for _, time_s, _ in await all_frames(camera)] == [n / 10 for n in range(20)]
        assert camera.stats.frames_grabbed == 60


async def test_two_frames_can_be_in_hand_at_once_at_full_pace(tmp_path: Path) -> None:
    async with watching(a_clip(tmp_path / "clip.mp4", frames=30), pace="full") as camera:
        first = await until(camera, Frame)
        pixels = first.picture.copy()
        for seq in range(1, 30):
            second = await until(camera, Frame)
            assert second.seq == seq
            assert np.array_equal(first.picture, pixels)
            camera.release(first)
            first, pixels = second, second.picture.copy()
        camera.release(first)


async def test_a_file_waits_for_a_consumer_that_takes_its_time(tmp_path: Path) -> None:
    async with watching(a_clip(tmp_path / "clip.mp4", 12), pace="full", open_timeout_s=0.5) as camera:
        await until(camera, Opened)
        await asyncio.sleep(2.7)  # longer than a stuck process would be allowed to be silent
        assert len(await all_frames(camera)) == 12
        assert camera.stats.restarts == 0


async def test_in_real_time_the_newest_frame_wins_and_drops_are_counted(tmp_path: Path) -> None:
    async with watching(a_clip(tmp_path / "clip.mp4", frames=30, fps=20.0), detect_fps=20) as camera:
        first = await until(camera, Frame)
        camera.release(first)
        await asyncio.sleep(0.8)
        late = await until(camera, Frame)
        camera.release(late)
        assert late.stream_s - first.stream_s > 0.5
        await until(camera, Ended)
        stats = camera.stats
    assert stats.dropped_by_cause["newer"] >= 8
    assert stats.frames_handed + stats.dropped_by_cause["newer"] == stats.frames_grabbed == 30


async def test_a_looped_file_goes_on_and_its_clock_too(tmp_path: Path) -> None:
    async with watching(a_clip(tmp_path / "clip.mp4", frames=5), pace="full", loop=True) as camera:
        seen = await frames(camera, 12)
    assert [round(frame.stream_s, 6) for frame in seen] == [index / 10 for index in range(12)]


async def test_after_the_end_it_stays_ended_and_the_last_frame_has_its_jpeg(tmp_path: Path) -> None:
    async with watching(a_clip(tmp_path / "clip.mp4", frames=1, size=(640, 360)), pace="full") as camera:
        frame = await until(camera, Frame)
        assert isinstance(await camera.next(), Ended)
        assert isinstance(await camera.next(), Ended)
        jpeg = cv2.imdecode(np.frombuffer(await camera.jpeg(frame), np.uint8), cv2.IMREAD_COLOR)
        assert jpeg is not None
        assert jpeg.shape == (360, 640, 3)
        camera.release(frame)
        with pytest.raises(CameraGone):
            await camera.jpeg(frame)


async def test_the_jpeg_is_the_native_picture_within_its_limit(tmp_path: Path) -> None:
    clip = a_clip(tmp_path / "clip.mp4", frames=3, size=(1280, 720))
    async with watching(clip, pace="full", jpeg_max_side_px=640) as camera:
        frame = await until(camera, Frame)
        jpegs = await asyncio.gather(*(camera.jpeg(frame) for _ in range(3)))
        camera.release(frame)
    picture = cv2.imdecode(np.frombuffer(jpegs[0], np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None
    assert picture.shape == (360, 640, 3)
    native = cv2.resize(scene(0, (1280, 720)), (640, 360))
    assert np.abs(picture.astype(int) - native).mean() < 6


async def test_a_folder_is_seen_by_name_and_what_is_no_picture_is_skipped(tmp_path: Path) -> None:
    """Cases 30 and 31."""
    folder = a_folder(tmp_path / "pictures", 6)
    (folder / "002.jpg").write_bytes(b"not a picture")
    (folder / "notes.txt").write_text("nor this")
    (folder / "004.png").write_bytes(giant_png())
    async with watching(folder, pace="full", detect_fps=5) as camera:
        seen = await all_frames(camera)
        assert camera.stats.dropped_by_cause == {"corrupt": 1, "too_large": 1}
    assert [round(time_s, 3) for _, time_s, _ in seen] == [0.0, 0.2, 0.6, 0.8, 1.2]


async def test_pictures_of_different_sizes_each_have_their_letterbox(tmp_path: Path) -> None:
    folder = a_folder(tmp_path / "pictures", 1)
    cv2.imwrite(str(folder / "high.png"), scene(0, (240, 480)))
    async with watching(folder, pace="full") as camera:
        shapes = []
        for _ in range(2):
            frame = await until(camera, Frame)
            shapes.append((frame.letterbox.width, frame.letterbox.height, frame.picture.shape))
            camera.release(frame)
    assert shapes == [(320, 240, (256, 320, 3)), (240, 480, (320, 160, 3))]


async def test_a_missing_file_is_waited_for(tmp_path: Path) -> None:
    """Case 36."""
    async with watching(tmp_path / "later.mp4", pace="full") as camera:
        lost = await until(camera, Lost)
        assert lost.cause is LossCause.MISSING
        a_clip(tmp_path / "draft.mp4", frames=3).rename(tmp_path / "later.mp4")
        await until(camera, Opened)


async def test_a_file_that_is_no_video_is_lost_with_a_reason(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(os.urandom(5000))
    async with watching(path) as camera:
        lost = await until(camera, Lost)
    assert lost.cause is LossCause.UNSUPPORTED
    assert lost.reason


@pytest.mark.parametrize("kind", ["fifo", "empty folder"])
async def test_what_can_never_be_read_is_lost_and_not_stuck(tmp_path: Path, kind: str) -> None:
    """Case 36."""
    path = tmp_path / "thing"
    if kind == "fifo":
        os.mkfifo(path)
    else:
        path.mkdir()
    async with watching(path) as camera:
        lost = await until(camera, Lost)
    assert lost.cause is (LossCause.UNSUPPORTED if kind == "fifo" else LossCause.MISSING)


async def test_a_damaged_clip_comes_to_an_end(tmp_path: Path) -> None:
    """Case 30."""
    clip = a_clip(tmp_path / "clip.mp4", frames=100)
    damaged = bytearray(clip.read_bytes())
    for position in range(2000, len(damaged) * 2 // 3, 97):
        damaged[position] ^= 0x10
    clip.write_bytes(damaged)
    async with watching(clip, pace="full") as camera:
        await until(camera, Ended)
        assert camera.stats.restarts == 0


@pytest.mark.skipif(not PETS.exists(), reason="the real clip is not here")
async def test_a_real_clip_is_read_to_its_end() -> None:
    async with watching(PETS, pace="full") as camera:
        opened = await until(camera, Opened)
        assert (opened.codec, opened.width, opened.height) == ("h264", 480, 360)
        assert len(await all_frames(camera)) == 795
