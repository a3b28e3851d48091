"""A camera that pushes JPEGs in one endless answer."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager

from aiohttp import web

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def serving(video: Handler) -> AsyncIterator[str]:
    """The address under which `video` answers."""
    application = web.Application()
    application.router.add_get("/video", video)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/video"
    finally:
        await runner.cleanup()


def pushing(jpegs: Iterable[bytes], pause_s: float = 0.02) -> Handler:
    async def video(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"Content-Type": "multipart/x-mixed-replace; boundary=frame"})
        await answer.prepare(request)
        for jpeg in jpegs:
            head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n".encode()
            try:
                await answer.write(head + jpeg + b"\r\n")
            except ConnectionError:
                break
            await asyncio.sleep(pause_s)
        return answer

    return video
