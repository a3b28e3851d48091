"""Case 36: files and folders in the place of a camera that are no good, or not yet."""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.camera import Ended, Frame, LossCause, Lost, Opened
from tests.cameras.damage import FPS, FRAMES, clips, holed
from tests.cameras.pictures import a_clip
from tests.cameras.watching import PATIENCE_S, until, watching
from tests.processes import camera_processes


def empty_file(path: Path) -> None:
    path.touch()


def pipe_that_nobody_writes_to(path: Path) -> None:
    os.mkfifo(path)


def folder_without_pictures(path: Path) -> None:
    path.mkdir()


def folder_of_pipes(path: Path) -> None:
    path.mkdir()
    os.mkfifo(path / "a.jpg")


def folder_of_unreadables(path: Path) -> None:
    path.mkdir()
    (path / "a.jpg").write_bytes(b"not a picture")


def video_without_pictures(path: Path) -> None:
    path.write_bytes(os.urandom(100_000))


@pytest.mark.parametrize("pace", ["full", "realtime"])
@pytest.mark.parametrize(
    "make",
    [
        empty_file,
        pipe_that_nobody_writes_to,
        folder_without_pictures,
        folder_of_pipes,
        folder_of_unreadables,
        video_without_pictures,
    ],
)
async def test_a_file_that_shows_nothing_is_lost_at_once_and_keeps_nobody_busy(
    tmp_path: Path, make: Callable[[Path], None], pace: str
) -> None:
    """Case 36. Looped: it must not be read again and again as fast as can be."""
    make(tmp_path / "thing")
    async with watching(tmp_path / "thing", pace=pace, loop=True) as camera:
        lost = await until(camera, Lost)
        [child] = camera_processes()
        before_s = cpu_s(child)
        await asyncio.sleep(0.6)
        assert cpu_s(child) - before_s < 0.3
        assert camera.stats.restarts == 0
    assert lost.cause in {LossCause.UNSUPPORTED, LossCause.MISSING}


def cpu_s(pid: int) -> float:
    """Computing time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def test_a_file_that_grows_while_it_is_watched_comes_to_an_end(tmp_path: Path) -> None:
    """Case 36."""
    whole = clips()["h264.ts"]
    path = tmp_path / "growing.ts"
    path.write_bytes(whole[: len(whole) // 2])
    async with watching(path, pace="full") as camera:
        first = await until(camera, Frame)
        with path.open("ab") as file:
            file.write(whole[len(whole) // 2 :])
        camera.release(first)
        await until(camera, Ended)
        assert FRAMES // 3 < camera.stats.frames_grabbed <= FRAMES
        assert camera.stats.restarts == 0


async def test_a_looped_file_that_vanishes_is_lost_and_found_again(tmp_path: Path) -> None:
    """Case 36."""
    clip = a_clip(tmp_path / "clip.mp4", frames=10)
    async with watching(clip, pace="full", loop=True) as camera:
        await until(camera, Frame)
        clip.rename(tmp_path / "away.mp4")
        assert (await until(camera, Lost)).cause is LossCause.MISSING
        (tmp_path / "away.mp4").rename(clip)
        await until(camera, Opened)
        await until(camera, Frame)


async def test_a_clip_with_a_hole_is_watched_to_its_end(tmp_path: Path) -> None:
    """Case 30. Of a picture that can't be decoded at all OpenCV says the same as of the end."""
    content = clips()["mjpeg.avi"]
    path = tmp_path / "holed.avi"
    path.write_bytes(holed(content, at=content.index(b"\xff\xd8\xff", len(content) // 2), length=600))
    last_s = 0.0
    async with watching(path, pace="full") as camera:
        async with asyncio.timeout(PATIENCE_S):
            while not isinstance(event := await camera.next(), Ended):
                if isinstance(event, Frame):
                    last_s = event.stream_s
                    camera.release(event)
        assert camera.stats.frames_grabbed == FRAMES
        assert camera.stats.dropped_by_cause["corrupt"] >= 1
    assert last_s == pytest.approx((FRAMES - 1) / FPS)
