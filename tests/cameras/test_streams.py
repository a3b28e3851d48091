"""Streams as real servers send them: H.264 over RTSP by GStreamer, MJPEG over HTTP."""

import asyncio
import base64
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import cv2
import pytest
from aiohttp import web

from pipeline.camera import Frame, LossCause, Lost, Opened
from tests.cameras.pictures import scene
from tests.cameras.watching import frames, until, watching
from tests.processes import camera_processes

SYSTEM_PYTHON = "/usr/bin/python3"
GSTREAMER_SERVER = Path(__file__).with_name("rtsp_gstreamer.py")
RSS_LIMIT_KB = 110 * 1024
"""The aim is 90 MB; on a busy machine, where frames wait, each that waits is another 6 MB."""


@pytest.fixture
def gstreamer() -> Iterator[str]:
    """The address of a real RTSP server that shows a moving 1080p picture."""
    argv = [SYSTEM_PYTHON, str(GSTREAMER_SERVER), "1920", "1080", "25", "moving"]
    try:
        server = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    except FileNotFoundError:
        pytest.skip("no system Python")
    with server:
        assert server.stdout is not None
        port = server.stdout.readline().strip()
        if not port:
            pytest.skip("GStreamer's RTSP server is not installed")
        yield f"rtsp://127.0.0.1:{port}/stream"
        server.kill()


async def test_h264_over_rtsp(gstreamer: str) -> None:
    async with watching(gstreamer, open_timeout_s=5) as camera:
        opened = await until(camera, Opened)
        assert (opened.codec, opened.width, opened.height) == ("h264", 1920, 1080)
        seen = await frames(camera, 15)
        last = await until(camera, Frame)
        assert (await camera.jpeg(last))[:2] == b"\xff\xd8"
        camera.release(last)
        assert rss_kb(camera_processes()[0]) < RSS_LIMIT_KB
    assert 1.0 <= seen[-1].stream_s - seen[0].stream_s <= 3


def rss_kb(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS")))


@asynccontextmanager
async def mjpeg_over_http(password: str = "") -> AsyncIterator[str]:
    """The address of a camera that pushes JPEGs in one endless answer."""
    wanted = "Basic " + base64.b64encode(f"admin:{password}".encode()).decode()

    async def video(request: web.Request) -> web.StreamResponse:
        if password and request.headers.get("Authorization") != wanted:
            return web.Response(status=401, headers={"WWW-Authenticate": 'Basic realm="camera"'})
        answer = web.StreamResponse(headers={"Content-Type": "multipart/x-mixed-replace; boundary=frame"})
        await answer.prepare(request)
        for index in range(1000):
            jpeg = cv2.imencode(".jpg", scene(index))[1].tobytes()
            head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n".encode()
            try:
                await answer.write(head + jpeg + b"\r\n")
            except ConnectionError:
                break
            await asyncio.sleep(0.04)
        return answer

    application = web.Application()
    application.router.add_get("/video", video)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield f"127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def test_mjpeg_over_http() -> None:
    async with (
        mjpeg_over_http("p:ss/w@rd") as address,
        watching(f"http://admin:p%3Ass%2Fw%40rd@{address}/video") as camera,
    ):
        opened = await until(camera, Opened)
        assert (opened.codec, opened.width, opened.height) == ("mjpeg", 320, 240)
        await frames(camera, 5)


@pytest.mark.parametrize(("path", "cause"), [("video", LossCause.AUTH), ("nothing-here", LossCause.MISSING)])
async def test_what_http_refuses_has_its_cause(path: str, cause: LossCause) -> None:
    async with (
        mjpeg_over_http("secret") as address,
        watching(f"http://admin:wrong@{address}/{path}") as camera,
    ):
        assert (await until(camera, Lost)).cause is cause


async def test_a_device_that_is_not_there_is_missing() -> None:
    async with watching("/dev/video97") as camera:
        assert (await until(camera, Lost)).cause is LossCause.MISSING
