"""How the tests look at a camera: short timeouts, and waits that end."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

from pipeline.camera import Camera, CameraEvent, CameraSettings, DetectorInput, Ended, Frame

INPUT = DetectorInput(320)
PATIENCE_S = 15.0
"""No test waits longer for anything; on a busy machine a process takes a second to start."""

Event = TypeVar("Event", bound=CameraEvent)


def settings_for(url: str | Path, **changes: Any) -> CameraSettings:
    """A camera that loses its patience soon."""
    quick = {
        "open_timeout_s": 1.2,
        "read_timeout_s": 0.8,
        "stall_timeout_s": 2.0,
        "retry_s": 0.2,
        "retry_max_s": 0.4,
        "motion": False,
    }
    return CameraSettings.model_validate({"name": "yard", "url": str(url)} | quick | changes)


@asynccontextmanager
async def watching(url: str | Path, **changes: Any) -> AsyncIterator[Camera]:
    async with Camera(settings_for(url, **changes), INPUT) as camera:
        yield camera


async def until(camera: Camera, kind: type[Event], within_s: float = PATIENCE_S) -> Event:
    """The next event of this kind; frames on the way are released."""
    async with asyncio.timeout(within_s):
        while True:
            event = await camera.next()
            if isinstance(event, kind):
                return event
            if isinstance(event, Frame):
                camera.release(event)


async def frames(camera: Camera, count: int) -> list[Frame]:
    """The next frames, each released at once: only their numbers may be looked at."""
    found = []
    for _ in range(count):
        found.append(frame := await until(camera, Frame))
        camera.release(frame)
    return found


async def all_frames(camera: Camera) -> list[tuple[int, float, bytes]]:
    """(seq, stream_s, pixels) of every frame until the end."""
    found: list[tuple[int, float, bytes]] = []
    async with asyncio.timeout(PATIENCE_S):
        while not isinstance(event := await camera.next(), Ended):
            if isinstance(event, Frame):
                found.append((event.seq, event.stream_s, event.picture.tobytes()))
                camera.release(event)
    return found
