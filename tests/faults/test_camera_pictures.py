"""Cases 29 to 31, 34 and 44: cameras that show nothing, send damaged or giant pictures or too many, or leak."""

import asyncio
import random
import resource
from collections import Counter
from contextlib import ExitStack
from itertools import repeat
from pathlib import Path

import cv2
import pytest

from pipeline.camera import Camera, CameraState, Ended, Frame, LossCause, Lost, Opened
from tests.cameras.damage import clips, cut, flipped
from tests.cameras.giants import giant_jpeg, giant_png
from tests.cameras.http_camera import pushing, serving
from tests.cameras.pictures import a_clip, a_folder, scene
from tests.cameras.rtsp_scripted import Fault, Script, ScriptedRtspServer
from tests.cameras.watching import PATIENCE_S, settings_for, until, watching
from tests.faults.resources import resident_kb
from tests.faults.watched import watched
from tests.processes import camera_processes

USUAL_CHILD_KB = 250 * 1024
"""Far more than a camera process ever needs, far less than a giant picture would take."""


BLIND = {
    Fault.FROZEN: CameraState.FROZEN,
    Fault.BLACK: CameraState.BLACK,
    Fault.GREY: CameraState.BLACK,
    Fault.GREEN: CameraState.BLACK,
}


async def test_cameras_that_show_nothing_have_gaps_and_nobody_is_asked_about_them(tmp_path: Path) -> None:
    """Case 29. The detector would see a person in anything."""
    with ExitStack() as stack:
        servers = {
            fault.name.lower(): stack.enter_context(ScriptedRtspServer(Script(fault, after_frames=20)))
            for fault in BLIND
        }
        cameras = [settings_for(server.url(), name=name, frozen_after_s=2) for name, server in servers.items()]
        async with watched(tmp_path, *cameras) as box:
            downs = {name: await box.until_row("events", camera=name, kind="camera_down") for name in servers}
            assert [box.cameras[fault.name.lower()].stats.state for fault in BLIND] == list(BLIND.values())
            looked, asked = box.network.looked, box.asked
            await asyncio.sleep(0.5)
            assert (box.network.looked, box.asked) == (looked, asked)
            for fault, state in BLIND.items():
                assert box.cameras[fault.name.lower()].stats.dropped_by_cause[state] > 0
            for server in servers.values():
                server.script = Script()
            for name in servers:
                await box.until_row("events", camera=name, kind="camera_back")
            await box.until_looked(10)
            gaps = {row["camera"]: row for row in await box.rows("gaps")}
    assert set(gaps) == set(servers)
    for name, gap in gaps.items():
        assert ("frozen" if name == "frozen" else "black") in gap["reason"]
        assert gap["reason"] in downs[name]["reason"]
        assert gap["started_at"] < downs[name]["captured_at"] < gap["ended_at"]


async def test_a_frozen_camera_that_then_hangs_up_has_one_gap_since_it_froze(tmp_path: Path) -> None:
    """Case 29."""
    with ScriptedRtspServer(Script(Fault.FROZEN, after_frames=20)) as server:
        async with watched(tmp_path, settings_for(server.url(), frozen_after_s=2)) as box:
            down = await box.until_row("events", kind="camera_down")
            server.stop()
            await box.until_state("yard", CameraState.DOWN)
            server.script = Script()
            server.start()
            await box.until_row("events", kind="camera_back")
            [gap] = await box.rows("gaps")
    assert "frozen" in gap["reason"]
    assert gap["started_at"] < down["captured_at"]


async def test_of_a_stream_with_damaged_pictures_only_whole_ones_are_looked_at() -> None:
    """Case 30. H.264 over RTP, bits flipped in every third picture: OpenCV gives them all out as good."""
    with ScriptedRtspServer(Script(Fault.DAMAGED_AT_TIMES, codec="h264", size=(640, 480))) as server:
        async with watching(server.url(), detect_fps=25, read_timeout_s=3) as camera:
            await until(camera, Opened)
            async with asyncio.timeout(PATIENCE_S):
                while camera.stats.dropped_by_cause["corrupt"] < 10:
                    camera.release(await until(camera, Frame))
            assert camera.stats.frames_handed > camera.stats.dropped_by_cause["corrupt"]
            assert (camera.stats.restarts, camera.stats.state) == (0, CameraState.UP)


async def test_a_camera_whose_every_picture_is_damaged_is_looked_at_all_the_same() -> None:
    """Case 30."""
    with ScriptedRtspServer(Script(Fault.CUT, after_frames=5)) as server:
        async with watching(server.url()) as camera:
            async with asyncio.timeout(PATIENCE_S):
                while camera.stats.state is not CameraState.DAMAGED:
                    camera.release(await until(camera, Frame))
            assert camera.stats.dropped_by_cause["corrupt"] > 10
            for _ in range(5):
                camera.release(await until(camera, Frame))


async def look_at(path: Path) -> tuple[Lost | Ended, Counter[str]]:
    """Read to the end, one way or the other: which, and what became of each frame."""
    every_frame = True
    async with watching(path, pace="full", detect_fps=60, read_timeout_s=5, open_timeout_s=5) as camera:
        async with asyncio.timeout(60):
            while not isinstance(event := await camera.next(), Lost | Ended):
                if isinstance(event, Frame):
                    camera.release(event)
                if isinstance(event, Opened):  # a flipped bit may have made it another rate
                    every_frame = (event.fps or 0) <= 60
        stats = camera.stats
        told = stats.frames_handed + sum(stats.dropped_by_cause.values())
        assert stats.restarts == 0
        assert told == stats.frames_grabbed or (told < stats.frames_grabbed and not every_frame)
        return event, stats.dropped_by_cause + Counter(handed=stats.frames_handed)


async def look_at_damaged(folder: Path, seeds: range) -> Counter[str]:
    """Clips of every codec with bits flipped or the end cut off, each by a real camera process. None of these crashes,
    and each comes to an end.
    """
    became: Counter[str] = Counter()
    for seed in seeds:
        for name, content in clips().items():
            lot = random.Random(f"{name} {seed}")
            harm = lot.choice((flipped, flipped, flipped, cut))
            path = folder / f"{seed}-{name}"
            path.write_bytes(harm(content, lot))
            end, frames = await look_at(path)
            became += frames
            assert isinstance(end, Ended) or end.cause in {LossCause.UNSUPPORTED, LossCause.TOO_LARGE}, (name, seed)
    return became


async def test_damaged_clips_come_to_an_end_and_their_pictures_are_counted(tmp_path: Path) -> None:
    """Case 30."""
    became = await look_at_damaged(tmp_path, range(2))
    assert became["handed"] > became["corrupt"] > 0


@pytest.mark.faults
@pytest.mark.timeout(1800)
async def test_hundreds_of_damaged_clips_come_to_an_end(tmp_path: Path) -> None:
    """Case 30."""
    became = await look_at_damaged(tmp_path, range(100, 200))
    assert became["handed"] > became["corrupt"] > 0


async def test_damaged_pictures_of_a_folder_are_skipped_and_counted(tmp_path: Path) -> None:
    """Case 30."""
    folder = a_folder(tmp_path / "pictures", 20)
    lot = random.Random(30)
    for path in sorted(folder.iterdir())[1::2]:
        path.write_bytes(lot.choice((flipped, cut))(path.read_bytes(), lot))
    end, became = await look_at(folder)
    assert isinstance(end, Ended)
    assert became["handed"] >= 10
    assert became["corrupt"] >= 1
    assert became["handed"] + became["corrupt"] == 20


async def test_a_camera_with_a_giant_picture_is_refused_before_anything_of_it_is_decoded() -> None:
    """Case 31."""
    async with serving(pushing(repeat(giant_jpeg()))) as url, watching(url, open_timeout_s=5) as camera:
        lost = await until(camera, Lost)
        assert (lost.cause, "16000 × 16000" in lost.reason) == (LossCause.TOO_LARGE, True)
        assert resident_kb(camera_processes()[0], most=True) < USUAL_CHILD_KB
        assert camera.stats.frames_handed == 0


@pytest.mark.parametrize("name", ["giant.png", "giant.jpg"])
async def test_a_giant_picture_file_is_refused_by_its_header(tmp_path: Path, name: str) -> None:
    """Case 31."""
    path = tmp_path / name
    path.write_bytes(giant_png() if name.endswith(".png") else giant_jpeg())
    async with watching(path) as camera:
        lost = await until(camera, Lost)
        assert (lost.cause, "too_large" in lost.reason) == (LossCause.UNSUPPORTED, True)
        assert resident_kb(camera_processes()[0], most=True) < USUAL_CHILD_KB


async def test_a_giant_picture_among_others_is_left_out(tmp_path: Path) -> None:
    """Case 31."""
    folder = a_folder(tmp_path / "pictures", 3)
    (folder / "001.jpg").write_bytes(giant_jpeg())
    async with watching(folder, pace="full", loop=True) as camera:
        async with asyncio.timeout(PATIENCE_S):
            while camera.stats.dropped_by_cause["too_large"] < 3:
                camera.release(await until(camera, Frame))
        assert resident_kb(camera_processes()[0], most=True) < USUAL_CHILD_KB


async def look_at_flood(seconds: int) -> tuple[int, int]:
    """Resident memory of the process, early and late, in KB."""
    with ScriptedRtspServer(Script(Fault.FLOOD, after_frames=0)) as server:
        async with watching(server.url(), detect_fps=10) as camera:
            await until(camera, Opened)
            for _ in range(20):
                camera.release(await until(camera, Frame))
            [child] = camera_processes()
            early_kb = resident_kb(child)
            held = await until(camera, Frame)  # a consumer that takes its time …
            newest = held
            async with asyncio.timeout(seconds + PATIENCE_S):
                while newest.stream_s - held.stream_s < seconds:
                    await asyncio.sleep(0.5)
                    newest = await until(camera, Frame)
                    camera.release(newest)
            camera.release(held)
            assert camera.stats.dropped_by_cause["newer"] >= 3 * seconds  # … gets the newest, not the next
            assert camera.stats.frames_grabbed > 5 * camera.stats.frames_handed
            return early_kb, resident_kb(child)


async def test_in_a_flood_the_newest_wins_and_memory_stays_flat() -> None:
    """Case 34."""
    early_kb, late_kb = await look_at_flood(2)
    assert late_kb - early_kb < 8 * 1024


@pytest.mark.faults
async def test_in_a_long_flood_memory_stays_flat() -> None:
    """Case 34."""
    early_kb, late_kb = await look_at_flood(60)
    assert late_kb - early_kb < 8 * 1024


async def test_a_camera_process_that_grows_is_replaced_before_its_limit() -> None:
    """Case 44. Nothing is given back, so that it keeps picture after picture: it goes by itself, and says why."""
    large = bytes(cv2.imencode(".jpg", scene(0, (4000, 4000)), [cv2.IMWRITE_JPEG_QUALITY, 10])[1])
    patient = {"open_timeout_s": 10, "read_timeout_s": 10}
    async with (
        serving(pushing(repeat(large), pause_s=0.6)) as url,
        watching(url, memory_limit_mb=340, **patient) as camera,
    ):
        await until(camera, Opened)
        [grown] = camera_processes()
        lost = await lost_while_holding(camera)
        assert (lost.cause, "has grown to" in lost.reason) == (LossCause.MEMORY, True)
        await until(camera, Opened)
        assert grown not in camera_processes()
        assert camera.stats.restarts == 1


async def lost_while_holding(camera: Camera) -> Lost:
    """Take frames and give none back, until the camera is lost."""
    async with asyncio.timeout(PATIENCE_S):
        while not isinstance(event := await camera.next(), Lost):
            assert not isinstance(event, Ended)
        return event


async def test_a_camera_process_that_gets_no_memory_is_replaced(tmp_path: Path) -> None:
    """Case 44. The system gives it no more than it has."""
    clip = a_clip(tmp_path / "clip.mp4", frames=20)
    async with watching(clip, loop=True) as camera:
        await until(camera, Frame)
        [starved] = camera_processes()
        resource.prlimit(starved, resource.RLIMIT_DATA, (16 << 20, 16 << 20))
        await until(camera, Lost)
        await until(camera, Frame)
        assert starved not in camera_processes()
