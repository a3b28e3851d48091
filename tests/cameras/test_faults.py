"""Streams that refuse, fall silent, stall, lie or vanish, from a server that does it on purpose."""

import asyncio
import socket
import time

import pytest

from pipeline.camera import Frame, LossCause, Lost, Opened
from pipeline.camera_child import SLOTS_REALTIME
from tests.cameras.rtsp_scripted import Fault, Script, ScriptedRtspServer
from tests.cameras.watching import frames, until, watching

OPEN_S, READ_S = 1.2, 0.8
START_S = 3.0
"""What a new process takes to load on a busy machine, at most."""


@pytest.mark.parametrize(
    ("fault", "cause"),
    [
        (Fault.SILENT, LossCause.TIMEOUT),
        (Fault.HANG_DESCRIBE, LossCause.TIMEOUT),
        (Fault.UNAUTHORIZED, LossCause.AUTH),
    ],
)
async def test_a_camera_that_never_opens_is_lost_in_time(fault: Fault, cause: LossCause) -> None:
    """Case 26."""
    with ScriptedRtspServer(Script(fault)) as server:
        async with watching(server.url()) as camera:
            lost = await until(camera, Lost, within_s=START_S + OPEN_S)
    assert lost.cause is cause


@pytest.mark.parametrize("fault", [Fault.STALL, Fault.STALL_MID_FRAME, Fault.DRIP])
async def test_a_stream_that_stalls_is_lost_within_its_read_timeout(fault: Fault) -> None:
    """Case 27."""
    with ScriptedRtspServer(Script(fault, after_frames=35)) as server:
        async with watching(server.url()) as camera:
            await until(camera, Opened)
            frame = await until(camera, Frame)
            camera.release(frame)
            lost = await until(camera, Lost)
            silent_s = time.time() - lost.since.timestamp()
    assert lost.cause is LossCause.STALLED
    assert READ_S * 0.8 <= silent_s <= 2 * READ_S + 0.5


async def test_a_camera_that_hangs_up_is_called_again() -> None:
    with ScriptedRtspServer(Script(Fault.CLOSE)) as server:
        async with watching(server.url()) as camera:
            await until(camera, Opened)
            assert (await until(camera, Lost)).cause is LossCause.CLOSED
            server.script = Script()
            await until(camera, Opened)
            seen = await frames(camera, 3)
    assert seen[0].stream_s < 1  # the clock of a new connection


async def test_a_camera_that_vanishes_is_waited_for_and_lost_only_once() -> None:
    """Case 25."""
    with ScriptedRtspServer() as server:
        async with watching(server.url()) as camera:
            await until(camera, Opened)
            server.stop()
            assert (await until(camera, Lost)).cause in {LossCause.CLOSED, LossCause.STALLED}
            with pytest.raises(TimeoutError):
                await until(camera, Lost, within_s=1.2)  # tried again, and again, without a word
            server.start()
            await until(camera, Opened)


async def test_a_closed_port_is_refused() -> None:
    """Case 25."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        async with watching(f"rtsp://127.0.0.1:{nobody.getsockname()[1]}/") as camera:
            assert (await until(camera, Lost)).cause is LossCause.REFUSED


async def test_a_wrong_password_is_not_tried_again_soon() -> None:
    """Case 32."""
    with ScriptedRtspServer(Script(Fault.UNAUTHORIZED)) as server:
        async with watching(server.url("admin:wrong@")) as camera:
            await until(camera, Lost)
            tries = server.connections
            await asyncio.sleep(1)
            assert server.connections == tries == 1


async def test_a_picture_of_another_size_has_another_letterbox() -> None:
    """Case 30."""
    with ScriptedRtspServer(Script(Fault.RESIZE, after_frames=40)) as server:
        async with watching(server.url()) as camera:
            sizes: set[tuple[int, int]] = set()
            async with asyncio.timeout(10):
                while len(sizes) < 2:
                    frame = await until(camera, Frame)
                    sizes.add((frame.letterbox.width, frame.letterbox.height))
                    camera.release(frame)
    assert sizes == {(320, 240), (400, 224)}


async def test_a_flood_is_thinned_to_the_rate_that_is_wanted() -> None:
    """Case 34."""
    with ScriptedRtspServer(Script(Fault.FLOOD, after_frames=0)) as server:
        async with watching(server.url(), detect_fps=10) as camera:
            first, *_, last = await frames(camera, 20)
            grabbed = camera.stats.frames_grabbed
    assert 1.5 <= last.stream_s - first.stream_s <= 4
    assert grabbed > 100


async def test_a_consumer_that_releases_nothing_gets_no_more_and_drops_are_counted() -> None:
    with ScriptedRtspServer() as server:
        async with watching(server.url()) as camera:
            held = [await until(camera, Frame) for _ in range(SLOTS_REALTIME)]
            with pytest.raises(TimeoutError):
                await until(camera, Frame, within_s=0.8)
            assert camera.stats.dropped_by_cause["no_slot"] > 0
            for frame in held:
                camera.release(frame)
            await until(camera, Frame)


async def test_one_dead_camera_never_slows_another() -> None:
    """Case 25."""
    with ScriptedRtspServer(Script(Fault.STALL, after_frames=0)) as dead, ScriptedRtspServer() as alive:
        async with watching(dead.url()), watching(dead.url()), watching(alive.url()) as camera:
            await until(camera, Frame)
            started_s = time.monotonic()
            await frames(camera, 20)
            took_s = time.monotonic() - started_s
    assert 1.5 <= took_s <= 3
