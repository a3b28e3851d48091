"""Cases 25, 32, 33, 35 and 37: cameras that can't be reached, lock us out, send us away, change their place, or all
come back at once.
"""

import asyncio
import ctypes
import os
import random
import shutil
import socket
import struct
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from itertools import accumulate, pairwise
from pathlib import Path

import pytest
from aiohttp import web
from structlog.testing import capture_logs

from pipeline import camera_supervisor
from pipeline.backoff import Backoff
from pipeline.camera import Camera, CameraState, Frame, LossCause, Lost, Opened
from pipeline.camera_settings import CameraSettings
from pipeline.camera_supervisor import Loss, Supervisor
from tests.cameras.http_camera import serving
from tests.cameras.rtsp_scripted import Fault, Script, ScriptedRtspServer
from tests.cameras.watching import INPUT, PATIENCE_S, settings_for, until, watching
from tests.faults.watched import watched

ROOT = Path(__file__).parents[2]


@contextmanager
def a_closed_port() -> Iterator[int]:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        yield nobody.getsockname()[1]


async def test_a_camera_that_is_not_there_is_a_gap_and_its_neighbour_goes_on(tmp_path: Path) -> None:
    """Case 25."""
    with a_closed_port() as port, ScriptedRtspServer() as server:
        good = settings_for(server.url(), name="good")
        refusing = settings_for(f"rtsp://127.0.0.1:{port}/", name="refusing")
        nameless = settings_for("rtsp://camera.invalid/", name="nameless")
        async with watched(tmp_path, refusing, nameless, good) as box:
            down = await box.until_row("events", camera="refusing", kind="camera_down")
            await box.until_state("good", CameraState.UP)
            await box.until_looked(10)
            await box.end()
            gaps = {row["camera"]: row for row in await box.rows("gaps")}
            appeared = await box.until_row("events", camera="good", kind="object_appeared")
    assert set(gaps) == {"refusing", "nameless"}
    assert "refused" in down["reason"]
    assert "resolve" in gaps["nameless"]["reason"]
    assert gaps["refusing"]["started_at"] < gaps["refusing"]["ended_at"]
    assert appeared["label"] == "person"


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare, for a network without a route")
async def test_a_camera_to_which_no_route_leads_is_unreachable() -> None:
    """Case 25."""
    script = (
        "import asyncio\n"
        "from pipeline.camera import Lost\n"
        "from tests.cameras.watching import until, watching\n"
        "async def main():\n"
        "    async with watching('rtsp://10.0.0.7/') as camera:\n"
        "        print((await until(camera, Lost)).cause.value)\n"
        "asyncio.run(main())\n"
    )
    argv = ["unshare", "--user", "--map-root-user", "--net", sys.executable, "-c", script]
    ran = await asyncio.to_thread(subprocess.run, argv, cwd=ROOT, capture_output=True, text=True, timeout=60)
    if "unshare" in ran.stderr:
        pytest.skip(ran.stderr.strip())
    assert ran.stdout.splitlines()[-1] == "unreachable"


async def test_the_waits_between_tries_double_up_to_a_minute_and_none_is_like_the_other() -> None:
    """Case 25. The real supervisor at a hundredth of its usual pace: 1 to 60 s are its defaults."""
    waits: list[float] = []
    enough = asyncio.Event()

    def on_loss(_loss: Loss, retry_s: float) -> None:
        waits.append(retry_s)
        if len(waits) == 12:
            enough.set()

    with a_closed_port() as port:
        url = f"rtsp://127.0.0.1:{port}/"
        usual = CameraSettings.model_validate({"name": "yard", "url": url})
        assert (usual.retry_s, usual.retry_max_s) == (1, 60)
        settings = settings_for(url, retry_s=0.01, retry_max_s=0.6)
        supervisor = Supervisor(settings, INPUT, lambda _kind, _payload: None, on_loss, lambda: None)
        running = asyncio.create_task(supervisor.run())
        async with asyncio.timeout(PATIENCE_S):
            await enough.wait()
        running.cancel()
        await asyncio.wait({running})
        await supervisor.kill()
    ceilings = [min(0.01 * 2**tried, 0.6) for tried in range(12)]
    assert all(0 <= wait <= ceiling for wait, ceiling in zip(waits, ceilings, strict=True))
    assert len(set(waits)) == 12


async def test_a_camera_that_refuses_the_password_is_asked_seldom_and_a_person_is_told() -> None:
    """Case 32. Digest, refused time and again: one connection, two questions, then half a minute at least."""
    with ScriptedRtspServer(Script(login=("admin", "the new one"))) as server, capture_logs() as logs:
        async with watching(server.url("admin:canary-the-old-one@")) as camera:
            assert (await until(camera, Lost)).cause is LossCause.AUTH
            for _ in range(3):
                await asyncio.sleep(0.3)  # the usual waits of this camera are 0.4 s at most
                assert server.connections == 1
    asked = [line for line in server.requests if line.startswith("DESCRIBE")]
    assert len(asked) <= 2
    [told] = [entry for entry in logs if entry["event"] == "camera.down"]
    assert (told["log_level"], told["cause"]) == ("error", "auth")
    assert told["retry_s"] >= camera_supervisor.AUTH_RETRY_S / 2
    assert "canary" not in str(logs)


def test_a_locked_door_is_never_tried_often() -> None:
    """Case 32. Never twice within 15 s, and at its slowest no more than 12 times an hour."""
    for seed in range(50):
        draw = random.Random(seed).uniform
        waits = Backoff(camera_supervisor.AUTH_RETRY_S, camera_supervisor.AUTH_RETRY_MAX_S, 0.5, draw)
        tries_s = list(accumulate(waits.next_s() for _ in range(40)))
        assert all(later_s - at_s >= 15 for at_s, later_s in pairwise(tries_s))
        assert sum(7200 <= at_s < 10800 for at_s in tries_s) <= 12


async def test_a_password_that_is_right_again_gets_in_at_the_next_try(monkeypatch: pytest.MonkeyPatch) -> None:
    """Case 32. The camera is changed back; a new password in the configuration is a new camera to the daemon."""
    monkeypatch.setattr(camera_supervisor, "AUTH_RETRY_S", 0.4)
    with ScriptedRtspServer(Script(login=("admin", "rotated"))) as server:
        async with watching(server.url("admin:mine@")) as camera:
            assert (await until(camera, Lost)).cause is LossCause.AUTH
            server.script = Script(login=("admin", "mine"))
            await until(camera, Opened)
            await until(camera, Frame)


async def test_a_stream_that_leads_elsewhere_is_refused_and_a_person_is_told() -> None:
    """Case 33. FFmpeg has called there before it says so: whom it can reach is for the network to decide."""
    with ScriptedRtspServer() as internal, capture_logs() as logs:
        script = Script(Fault.REDIRECT, elsewhere=internal.url())
        with ScriptedRtspServer(script) as server:
            async with watching(server.url()) as camera:
                assert (await until(camera, Lost)).cause is LossCause.REDIRECTED
                with pytest.raises(TimeoutError):
                    await until(camera, Opened, within_s=1)
                assert camera.stats.frames_grabbed == 0
    [told] = [entry for entry in logs if entry["event"] == "camera.down"]
    assert (told["log_level"], told["cause"]) == ("error", "redirected")


async def test_over_http_nobody_is_called_to_whom_a_camera_sends_us() -> None:
    """Case 33."""
    with an_internal_server() as (port, called):

        async def away(_request: web.Request) -> web.StreamResponse:
            raise web.HTTPFound(f"http://127.0.0.1:{port}/video")

        async with serving(away) as url, watching(url) as camera:
            lost = await until(camera, Lost)
    assert not called.is_set()
    assert "redirect" in lost.reason


@contextmanager
def an_internal_server() -> Iterator[tuple[int, threading.Event]]:
    """Its port, and whether anybody has called."""
    called = threading.Event()

    def answer() -> None:
        try:
            listener.accept()[0].close()
        except OSError:
            return
        called.set()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listening = threading.Thread(target=answer)
        listening.start()
        try:
            yield listener.getsockname()[1], called
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            listening.join()


@contextmanager
def noticing_opens(paths: list[Path]) -> Iterator[Callable[[], list[str]]]:
    """Which of these files were opened since the last look, by anybody (inotify)."""
    libc = ctypes.CDLL(None, use_errno=True)
    fd = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    in_open = 0x20
    names = {libc.inotify_add_watch(fd, os.fsencode(path), in_open): path.name for path in paths}

    def opened() -> list[str]:
        try:
            told = os.read(fd, 65536)
        except BlockingIOError:
            return []
        return [names[watch] for watch, *_ in struct.iter_unpack("iIII", told)]

    try:
        yield opened
    finally:
        os.close(fd)


async def test_a_device_is_found_anew_at_each_try_by_the_name_that_stays() -> None:
    """Case 35. There is no camera to unplug here: the link leads to one file, then to another."""
    with a_folder_in_dev() as folder:
        first, second, link = folder / "video0", folder / "video1", folder / "by-id"
        first.touch()
        second.touch()
        link.symlink_to(first)
        with noticing_opens([first, second]) as opened:
            async with watching(link) as camera:
                await until(camera, Lost)
                assert set(opened()) == {"video0"}
                (folder / "new").symlink_to(second)
                (folder / "new").rename(link)
                opened()
                async with asyncio.timeout(PATIENCE_S):
                    while "video1" not in (found := opened()):
                        assert "video0" not in found
                        await asyncio.sleep(0.05)


@contextmanager
def a_folder_in_dev() -> Iterator[Path]:
    folder = Path(f"/dev/shm/lva-test-{os.getpid()}")
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def test_fifty_cameras_that_lost_their_switch_do_not_come_back_in_one_moment() -> None:
    """Case 37. At the fifth try the ceiling is 16 s: in no second of it come more than a fifth of them."""
    for seed in range(20):
        lot = random.Random(seed)
        cameras = [Backoff(1, 60, draw=lot.uniform) for _ in range(50)]
        for _ in range(4):
            [camera.next_s() for camera in cameras]
        back_s = [camera.next_s() for camera in cameras]
        assert max(back_s) <= 16
        assert max(Counter(map(int, back_s)).values()) <= 10
        assert len(set(map(int, back_s))) >= 12


@pytest.mark.faults
async def test_fifty_real_cameras_come_back_spread_over_their_waits() -> None:
    """Case 37."""
    patient = {"open_timeout_s": 30, "read_timeout_s": 30, "stall_timeout_s": 60, "detect_fps": 1}
    with ScriptedRtspServer(Script(fps=2)) as server:
        async with AsyncExitStack() as stack, asyncio.timeout(280):
            cameras = [
                await stack.enter_async_context(
                    watching(server.url(), name=f"c{n}", retry_s=8, retry_max_s=8, **patient)
                )
                for n in range(50)
            ]
            await all_until(cameras, Opened)
            server.stop()
            await all_until(cameras, Lost)
            server.start()
            before = server.connections
            await all_until(cameras, Opened)
            assert all(camera.stats.restarts == 0 for camera in cameras)
            came_s = server.connected_s[before:]
    assert len(came_s) == 50
    assert max(Counter(int(at_s - came_s[0]) for at_s in came_s).values()) <= 20


async def all_until(cameras: list[Camera], kind: type[Opened] | type[Lost]) -> None:
    await asyncio.gather(*(until(camera, kind, within_s=240) for camera in cameras))
