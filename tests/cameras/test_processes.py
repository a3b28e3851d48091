"""The process behind a camera: how it is killed, replaced, fed and kept quiet."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import uvloop

from pipeline.camera import CameraGone, Frame, LossCause, Lost, Opened
from tests.cameras.pictures import a_clip
from tests.cameras.rtsp_scripted import Fault, Script, ScriptedRtspServer
from tests.cameras.watching import all_frames, settings_for, until, watching
from tests.processes import camera_processes

ROOT = Path(__file__).parents[2]


@pytest.fixture
def endless(tmp_path: Path) -> Path:
    return a_clip(tmp_path / "clip.mp4", frames=300)


async def test_a_stuck_process_is_killed_and_replaced(endless: Path) -> None:
    """Case 28. Stopped, it does not even hear its parent; SIGKILL needs no one to listen."""
    async with watching(endless, loop=True) as camera:
        await until(camera, Frame)
        [stuck] = camera_processes()
        os.kill(stuck, signal.SIGSTOP)
        lost = await until(camera, Lost)
        assert lost.cause is LossCause.STALLED
        silent_s = float(lost.reason.rpartition("silent for ")[2].split()[0])
        assert silent_s <= 2 * settings_for(endless).stall_s
        await until(camera, Opened)
        assert stuck not in camera_processes()
        assert camera.stats.restarts == 1


async def test_a_killed_process_is_replaced_and_its_frames_do_no_harm(endless: Path) -> None:
    async with watching(endless, loop=True) as camera:
        frame = await until(camera, Frame)
        pixels = frame.picture.copy()
        [victim] = camera_processes()
        os.kill(victim, signal.SIGKILL)
        lost = await until(camera, Lost)
        assert lost.cause is LossCause.CRASHED
        assert "SIGKILL" in lost.reason
        with pytest.raises(CameraGone):
            await camera.jpeg(frame)
        await until(camera, Opened)
        successor = await until(camera, Frame)
        assert successor.seq > frame.seq
        assert (frame.picture == pixels).all()
        camera.release(frame)
        assert await camera.jpeg(successor)
        camera.release(successor)


async def test_a_jpeg_that_is_waited_for_ends_with_its_process(endless: Path) -> None:
    async with watching(endless, loop=True) as camera:
        frame = await until(camera, Frame)
        [victim] = camera_processes()
        os.kill(victim, signal.SIGSTOP)
        waiting = asyncio.create_task(camera.jpeg(frame))
        await asyncio.sleep(0)
        os.kill(victim, signal.SIGKILL)
        with pytest.raises(CameraGone):
            await waiting


async def test_the_process_loads_no_more_than_it_needs(endless: Path) -> None:
    async with watching(endless, loop=True) as camera:
        await until(camera, Frame)
        loaded = Path(f"/proc/{camera_processes()[0]}/maps").read_text()
    assert "cv2" in loaded
    assert not any(library in loaded for library in ("pydantic", "uvloop", "openvino", "apsw", "_ssl.cpython"))


@pytest.mark.parametrize("after_s", [0.0, 0.02, 0.3])
async def test_leaving_kills_and_reaps_at_any_moment(endless: Path, after_s: float) -> None:
    async with watching(endless, loop=True):
        await asyncio.sleep(after_s)
        started_s = time.monotonic()
    assert time.monotonic() - started_s < 2
    assert camera_processes() == []


async def test_cancelled_at_any_moment_no_process_is_left(endless: Path) -> None:
    async def look() -> None:
        async with watching(endless, loop=True) as camera:
            while True:
                camera.release(await until(camera, Frame))

    async def look_for(duration_s: float) -> None:
        looking = asyncio.create_task(look())
        await asyncio.wait({looking}, timeout=duration_s)
        looking.cancel()
        await asyncio.wait({looking})
        assert looking.cancelled()

    await asyncio.gather(*(look_for(index**2 * 0.004) for index in range(12)))
    assert camera_processes() == []


async def test_leaving_does_not_wait_for_a_stuck_process(endless: Path) -> None:
    async with watching(endless, loop=True) as camera:
        await until(camera, Frame)
        os.kill(camera_processes()[0], signal.SIGSTOP)
        started_s = time.monotonic()
    assert time.monotonic() - started_s < 2
    assert camera_processes() == []


async def test_nothing_stays_open_behind_a_camera(endless: Path) -> None:
    async def look() -> None:
        async with watching(endless, pace="full") as camera:
            camera.release(await until(camera, Frame))

    await look()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(4):
        await look()
    assert len(os.listdir("/proc/self/fd")) - before < 4


def test_under_uvloop_all_frames_come_too(endless: Path) -> None:
    async def look() -> int:
        async with watching(endless, pace="full") as camera:
            return len(await all_frames(camera))

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(look()) == 300


async def test_the_password_is_in_no_argument_and_no_environment() -> None:
    with ScriptedRtspServer() as server:
        async with watching(server.url("admin:canary-7731@")) as camera:
            await until(camera, Opened)
            [child] = camera_processes()
            for where in ("cmdline", "environ"):
                assert b"canary-7731" not in Path(f"/proc/{child}/{where}").read_bytes()


@pytest.mark.parametrize("fault", [Fault.UNAUTHORIZED, Fault.HANG_DESCRIBE, Fault.CLOSE])
async def test_the_password_is_in_no_log_and_no_error(fault: Fault, capfd: pytest.CaptureFixture[str]) -> None:
    with ScriptedRtspServer(Script(fault)) as server:
        async with watching(server.url("admin:c%40nary-7731@")) as camera:
            lost = await until(camera, Lost)
            os.kill(camera_processes()[0], signal.SIGABRT)
    said = "".join(capfd.readouterr()) + lost.reason
    assert "nary-7731" not in said
    assert "camera.down" in said


async def test_the_process_dies_with_its_parent(endless: Path) -> None:
    script = (
        "import asyncio, sys\n"
        "from tests.cameras.watching import until, watching\n"
        "from pipeline.camera import Frame\n"
        "async def main():\n"
        "    async with watching(sys.argv[1], loop=True) as camera:\n"
        "        await until(camera, Frame)\n"
        "        print('up', flush=True)\n"
        "        await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    argv = [sys.executable, "-c", script, str(endless)]
    parent = await asyncio.create_subprocess_exec(*argv, cwd=ROOT, stdout=subprocess.PIPE)
    assert parent.stdout is not None
    async with asyncio.timeout(10):
        while (await parent.stdout.readline()).strip() != b"up":
            pass
    [child] = camera_processes(parent.pid)
    ended = asyncio.Event()
    pidfd = os.pidfd_open(child)
    asyncio.get_running_loop().add_reader(pidfd, ended.set)
    os.kill(child, signal.SIGSTOP)  # it could not even read that its stdin has ended
    parent.kill()
    await parent.wait()
    async with asyncio.timeout(5):
        await ended.wait()
    asyncio.get_running_loop().remove_reader(pidfd)
    os.close(pidfd)
