"""A camera, as the daemon sees it: frames, openings and losses, in order. A child process decodes."""

import asyncio
import json
import logging
import time
from collections import deque
from dataclasses import asdict
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Self

import structlog

from pipeline.camera_events import (
    Blind,
    CameraGone,
    CameraState,
    CameraStats,
    Ended,
    Frame,
    Lost,
    Opened,
    Seeing,
)
from pipeline.camera_link import (
    FRAME,
    SEQ,
    SLOT,
    SLOT_AND_SEQ,
    Command,
    DetectorInput,
    Health,
    LossCause,
    Message,
)
from pipeline.camera_settings import CameraSettings
from pipeline.camera_supervisor import Loss, Supervisor
from pipeline.letterbox import fit

__all__ = [
    "Blind",
    "Camera",
    "CameraEvent",
    "CameraGone",
    "CameraSettings",
    "CameraState",
    "CameraStats",
    "DetectorInput",
    "Ended",
    "Frame",
    "LossCause",
    "Lost",
    "Opened",
    "Seeing",
]

log = structlog.get_logger()

STATE_OF_HEALTH = {
    Health.OK: CameraState.UP,
    Health.FROZEN: CameraState.FROZEN,
    Health.BLACK: CameraState.BLACK,
    Health.DAMAGED: CameraState.DAMAGED,
}

BLIND = {
    CameraState.FROZEN: (LossCause.FROZEN, "the picture is frozen: not one pixel changes"),
    CameraState.BLACK: (LossCause.BLACK, "the picture is black or blank"),
}

FOR_A_PERSON = frozenset({LossCause.AUTH, LossCause.REDIRECTED, LossCause.TOO_LARGE})
"""No retry will mend these."""

letterbox_of = lru_cache(maxsize=64)(fit)

CameraEvent = Frame | Opened | Lost | Blind | Seeing | Ended


class Camera:
    """One camera for one consumer. Entering starts its supervision; leaving kills and reaps its process."""

    def __init__(self, settings: CameraSettings, input_size: DetectorInput) -> None:
        self._settings = settings
        self._log = log.bind(camera=settings.name)
        self._lossless = settings.pace == "full"
        self._process = Supervisor(settings, input_size, self._on_message, self._on_loss, self._on_gone)
        self._inbox: deque[CameraEvent] = deque()
        self._reader: asyncio.Future[None] | None = None
        self._held: dict[int, int] = {}
        self._none_held = asyncio.Event()
        self._jpegs: dict[int, asyncio.Future[bytes]] = {}
        self._down_by: LossCause | None = None
        self._stats = CameraStats()

    async def __aenter__(self) -> Self:
        self._last_good_at = time.time()
        self._supervision = asyncio.create_task(self._supervise(), name=f"camera {self._settings.name}")
        self._supervision.add_done_callback(lambda _: self._wake())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._supervision.cancel()
        await asyncio.wait({self._supervision})
        await self._process.kill()

    @property
    def stats(self) -> CameraStats:
        """The counters, live: the same object every time."""
        self._stats.restarts = self._process.restarts
        return self._stats

    def overdue_s(self) -> float:
        """How long ago its process should have been killed for its silence: above 0, supervision itself is stuck."""
        return self._process.overdue_s()

    async def next(self) -> CameraEvent:
        """Wait for what comes next. In real time only the newest frame is kept; once Ended, always Ended."""
        while not self._inbox:
            if self._supervision.done():
                self._supervision.result()
            self._reader = asyncio.get_running_loop().create_future()
            await self._reader
        event = self._inbox[0]
        if not isinstance(event, Ended):
            self._inbox.popleft()
        if isinstance(event, Frame):
            self._stats.frames_handed += 1
        return event

    async def jpeg(self, frame: Frame) -> bytes:
        """The frame's native picture, encoded in the child. Ask before the release. Raises CameraGone."""
        slot, child = self._held.get(frame.seq), self._process.child
        if slot is None or child is None:
            raise CameraGone(frame.camera)
        if (pending := self._jpegs.get(frame.seq)) is None:
            pending = self._jpegs[frame.seq] = asyncio.get_running_loop().create_future()
            child.send(Command.JPEG, SLOT_AND_SEQ.pack(slot, frame.seq))
        await asyncio.wait({pending}, timeout=self._settings.stall_s)
        if not pending.done() or not (jpeg := pending.result()):
            raise CameraGone(frame.camera)
        return jpeg

    def release(self, frame: Frame) -> None:
        """The frame's memory may be used again. For a frame of a process that has died, nothing happens."""
        slot = self._held.pop(frame.seq, None)
        if slot is not None and self._process.child is not None:
            self._process.child.send(Command.RELEASE, SLOT.pack(slot))
        if not self._held:
            self._none_held.set()

    async def _supervise(self) -> None:
        """Until a file has ended; its process stays for the JPEGs of the frames that are still in hand."""
        await self._process.run()
        self._stats.state = CameraState.ENDED
        self._log.info("camera.ended", frames_grabbed=self._stats.frames_grabbed)
        self._put(Ended())
        if self._held:
            self._none_held.clear()
            await self._none_held.wait()
        await self._process.kill()

    def _on_message(self, kind: int, payload: bytes) -> None:
        if kind == Message.FRAME:
            self._on_frame(payload)
        elif kind == Message.STATUS:
            self._on_status(json.loads(payload))
        elif kind == Message.JPEG:
            self._answer_jpeg(SEQ.unpack_from(payload)[0], payload[SEQ.size :])
        elif kind == Message.OPENED:
            self._on_opened(Opened(**json.loads(payload)))

    def _on_frame(self, payload: bytes) -> None:
        seq, slot, captured_at, stream_s, active_s, motion, *sizes = FRAME.unpack(payload)
        assert self._process.child is not None
        letterbox = letterbox_of(*sizes)
        picture = self._process.child.view(slot, letterbox.input_height, letterbox.input_width)
        at = datetime.fromtimestamp(captured_at, UTC)
        frame = Frame(self._settings.name, seq, slot, picture, letterbox, at, stream_s, active_s, motion)
        self._held[seq] = slot
        self._process.next_seq, self._last_good_at = seq + 1, captured_at
        if not self._lossless and self._inbox and isinstance(older := self._inbox[-1], Frame):
            self._inbox.pop()
            self.release(older)
            self._stats.dropped_by_cause["newer"] += 1
        self._put(frame)

    def _on_status(self, status: dict[str, Any]) -> None:
        self._stats.frames_grabbed += status["grabbed"]
        self._stats.reported_s = asyncio.get_running_loop().time()
        self._stats.dropped_by_cause.update(status["dropped"])
        self._last_good_at = max(self._last_good_at, status["good_at"])
        if self._stats.state in STATE_OF_HEALTH.values():
            self._set_state(STATE_OF_HEALTH[Health(status["health"])], status["unwell_since"])

    def _set_state(self, state: CameraState, since: float) -> None:
        before, self._stats.state = self._stats.state, state
        if state is before:
            return
        if state is CameraState.UP:
            self._log.info("camera.ok")
        else:
            self._log.warning(f"camera.{state}")
        if state in BLIND and before not in BLIND:
            cause, reason = BLIND[state]
            self._put(Blind(reason, datetime.fromtimestamp(since, UTC), cause))
        elif before in BLIND and state not in BLIND:
            self._put(Seeing())

    def _on_opened(self, opened: Opened) -> None:
        self._stats.state, self._stats.down_reason = CameraState.UP, ""
        self._down_by = None
        self._log.info("camera.up", url=self._settings.redacted, **asdict(opened))
        self._put(opened)

    def _on_loss(self, loss: Loss, retry_s: float) -> None:
        """Said once when it goes down, and in the log again only if the reason becomes another."""
        if self._down_by is None:
            self._put(Lost(loss.reason, datetime.fromtimestamp(self._last_good_at, UTC), loss.cause))
        if loss.cause is not self._down_by:
            level = logging.ERROR if loss.cause in FOR_A_PERSON else logging.WARNING
            self._log.log(level, "camera.down", cause=loss.cause, reason=loss.reason, retry_s=round(retry_s, 1))
        if not self._stats.down_reason:
            self._stats.down_since_s = time.clock_gettime(time.CLOCK_BOOTTIME)
        self._down_by = loss.cause
        self._stats.state, self._stats.down_reason = CameraState.DOWN, loss.reason

    def _on_gone(self) -> None:
        self._held.clear()
        self._none_held.set()
        for seq in list(self._jpegs):
            self._answer_jpeg(seq, b"")

    def _answer_jpeg(self, seq: int, jpeg: bytes) -> None:
        pending = self._jpegs.pop(seq, None)
        if pending is not None and not pending.done():
            pending.set_result(jpeg)

    def _put(self, event: CameraEvent) -> None:
        self._inbox.append(event)
        self._wake()

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)
