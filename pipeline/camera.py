"""A camera, as the daemon sees it: frames, openings and losses, in order, for ever. The decoding is in a
child process.
"""

import asyncio
import json
import time
from collections import deque
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Self

import structlog

from pipeline.backoff import Backoff
from pipeline.camera_child import CameraChild
from pipeline.camera_events import CameraGone, CameraState, CameraStats, Ended, Frame, Lost, Opened
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
from pipeline.letterbox import fit

__all__ = [
    "Camera",
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
]

log = structlog.get_logger()

START_S = 30.0
"""A new process may take this long to load on a busy box before it counts as stuck."""

GRACE_S = 0.2
"""After a stall of our own loop, messages may lie unread: look once more before killing."""

AUTH_RETRY_S = 30.0
AUTH_RETRY_MAX_S = 600.0
"""Cameras lock accounts after a few wrong passwords."""

STEADY_S = 10.0
"""A connection that lasted this long worked: the next failure is a new one, and is retried soon."""

STATE_OF_HEALTH = {
    Health.OK: CameraState.UP,
    Health.FROZEN: CameraState.FROZEN,
    Health.BLACK: CameraState.BLACK,
}

letterbox_of = lru_cache(maxsize=64)(fit)


@dataclass(frozen=True, slots=True)
class Loss:
    """How one connection, or one try of it, came to nothing."""

    cause: LossCause
    reason: str


CameraEvent = Frame | Opened | Lost | Ended


class Camera:
    """One camera for one consumer. Entering starts its supervision; leaving kills and reaps its process."""

    def __init__(self, settings: CameraSettings, input_size: DetectorInput) -> None:
        self._settings, self._input_size = settings, input_size
        self._log = log.bind(camera=settings.name)
        self._lossless = settings.pace == "full"
        self._inbox: deque[CameraEvent] = deque()
        self._reader: asyncio.Future[None] | None = None
        self._child: CameraChild | None = None
        self._held: dict[int, int] = {}
        self._none_held = asyncio.Event()
        self._jpegs: dict[int, asyncio.Future[bytes]] = {}
        self._next_seq = 0
        self._down_by: LossCause | None = None
        self.stats = CameraStats()

    async def __aenter__(self) -> Self:
        self._last_good_at = time.time()
        self._supervisor = asyncio.create_task(self._supervise(), name=f"camera {self._settings.name}")
        self._supervisor.add_done_callback(lambda _: self._wake())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._supervisor.cancel()
        await asyncio.wait({self._supervisor})
        if self._child is not None:
            self._decide(None)
            await self._child.kill()

    async def next(self) -> CameraEvent:
        """Wait for what comes next. In real time only the newest frame is kept; once Ended, always Ended."""
        while not self._inbox:
            if self._supervisor.done():
                self._supervisor.result()
            self._reader = asyncio.get_running_loop().create_future()
            await self._reader
        event = self._inbox[0]
        if not isinstance(event, Ended):
            self._inbox.popleft()
        if isinstance(event, Frame):
            self.stats.frames_handed += 1
        return event

    async def jpeg(self, frame: Frame) -> bytes:
        """The frame's native picture, encoded in the child. Ask before the release. Raises CameraGone."""
        slot = self._held.get(frame.seq)
        if slot is None or self._child is None:
            raise CameraGone(frame.camera)
        if (pending := self._jpegs.get(frame.seq)) is None:
            pending = self._jpegs[frame.seq] = asyncio.get_running_loop().create_future()
            self._child.send(Command.JPEG, SLOT_AND_SEQ.pack(slot, frame.seq))
        await asyncio.wait({pending}, timeout=self._settings.stall_s)
        if not pending.done() or not (jpeg := pending.result()):
            raise CameraGone(frame.camera)
        return jpeg

    def release(self, frame: Frame) -> None:
        """The frame's memory may be used again. For a frame of a process that has died, nothing happens."""
        slot = self._held.pop(frame.seq, None)
        if slot is not None and self._child is not None:
            self._child.send(Command.RELEASE, SLOT.pack(slot))
        if not self._held:
            self._none_held.set()

    async def _supervise(self) -> None:
        settings = self._settings
        usual = Backoff(settings.retry_s, settings.retry_max_s)
        locked_out = Backoff(AUTH_RETRY_S, AUTH_RETRY_MAX_S, floor_share=0.5)
        while (loss := await self._connection()) is not None:
            if self._steady():
                usual.reset()
                locked_out.reset()
            wait_s = (locked_out if loss.cause is LossCause.AUTH else usual).next_s()
            self._went_down(loss, wait_s)
            await asyncio.sleep(wait_s)
        self._ended()
        if self._held:
            self._none_held.clear()
            await self._none_held.wait()
        if self._child is not None:
            await self._child.kill()

    async def _connection(self) -> Loss | None:
        """One connection, from the wish for it until it is lost; None if it ended because the file did."""
        loop = asyncio.get_running_loop()
        self._verdict: asyncio.Future[Loss | None] = loop.create_future()
        self._opened_s: float | None = None
        try:
            child = self._child or await self._spawn()
        except OSError as error:
            return Loss(LossCause.CRASHED, f"cannot start the camera process: {error.strerror}")
        self._heard_s = loop.time()
        child.send(Command.OPEN)
        while not self._verdict.done():
            left_s = self._heard_s + self._patience_s - loop.time()
            await asyncio.wait({self._verdict}, timeout=min(left_s, self._settings.stall_s))
            if self._heard_s + self._patience_s <= loop.time():
                await self._kill_if_stuck(child)
        return self._verdict.result()

    def _steady(self) -> bool:
        return self._opened_s is not None and self._heard_s - self._opened_s >= STEADY_S

    async def _spawn(self) -> CameraChild:
        child = self._child = CameraChild(self._on_message, self._on_gone)
        self._patience_s = START_S
        await child.spawn(self._settings, self._input_size, self._next_seq)
        return child

    async def _kill_if_stuck(self, child: CameraChild) -> None:
        """The deadline has passed; but after a stall of our own loop, words may just lie unread."""
        await asyncio.wait({self._verdict}, timeout=GRACE_S)
        silent_s = asyncio.get_running_loop().time() - self._heard_s
        if silent_s >= self._patience_s and not self._verdict.done():
            self._verdict.set_result(
                Loss(LossCause.STALLED, f"the camera process is stuck, silent for {silent_s:.0f} s")
            )
            await child.kill()

    def _on_message(self, kind: int, payload: bytes) -> None:
        self._heard_s = asyncio.get_running_loop().time()
        if kind == Message.FRAME:
            self._on_frame(payload)
        elif kind == Message.STATUS:
            self._on_status(json.loads(payload))
        elif kind == Message.JPEG:
            self._answer_jpeg(SEQ.unpack_from(payload)[0], payload[SEQ.size :])
        elif kind == Message.READY:
            self._patience_s = self._settings.stall_s
        elif kind == Message.OPENED:
            self._on_opened(Opened(**json.loads(payload)))
        elif kind == Message.LOST:
            cause, reason = json.loads(payload)
            self._decide(Loss(LossCause(cause), self._settings.redact(reason)))
        elif kind == Message.ENDED:
            self._decide(None)

    def _on_frame(self, payload: bytes) -> None:
        seq, slot, captured_at, stream_s, active_s, motion, *sizes = FRAME.unpack(payload)
        assert self._child is not None
        letterbox = letterbox_of(*sizes)
        picture = self._child.view(slot, letterbox.input_height, letterbox.input_width)
        at = datetime.fromtimestamp(captured_at, UTC)
        frame = Frame(self._settings.name, seq, slot, picture, letterbox, at, stream_s, active_s, motion)
        self._held[seq] = slot
        self._next_seq, self._last_good_at = seq + 1, captured_at
        if not self._lossless and self._inbox and isinstance(older := self._inbox[-1], Frame):
            self._inbox.pop()
            self.release(older)
            self.stats.dropped_by_cause["newer"] += 1
        self._put(frame)

    def _on_status(self, status: dict[str, Any]) -> None:
        self.stats.frames_grabbed += status["grabbed"]
        self.stats.dropped_by_cause.update(status["dropped"])
        if status["grabbed"] and status["health"] == Health.OK:
            self._last_good_at = time.time()
        if self._opened_s is not None:
            self._set_state(STATE_OF_HEALTH[Health(status["health"])])

    def _on_opened(self, opened: Opened) -> None:
        self._opened_s = self._heard_s
        self._down_by = None
        self.stats.state = CameraState.UP
        self._log.info("camera.up", url=self._settings.redacted, **asdict(opened))
        self._put(opened)

    def _set_state(self, state: CameraState) -> None:
        if state is not self.stats.state:
            self.stats.state = state
            if state is CameraState.UP:
                self._log.info("camera.ok")
            else:
                self._log.warning(f"camera.{state}")

    def _went_down(self, loss: Loss, retry_s: float) -> None:
        """Said once when it goes down, and again only if the reason becomes another."""
        if self._down_by is None:
            self._put(Lost(loss.reason, datetime.fromtimestamp(self._last_good_at, UTC), loss.cause))
        if loss.cause is not self._down_by:
            self._log.warning("camera.down", cause=loss.cause, reason=loss.reason, retry_s=round(retry_s, 1))
        self._down_by = loss.cause
        self.stats.state = CameraState.DOWN

    def _ended(self) -> None:
        self.stats.state = CameraState.ENDED
        self._log.info("camera.ended", frames_grabbed=self.stats.frames_grabbed)
        self._put(Ended())

    def _on_gone(self) -> None:
        """The child's process is over: by our hand, or it crashed."""
        child, self._child = self._child, None
        self._held.clear()
        self._none_held.set()
        for seq in list(self._jpegs):
            self._answer_jpeg(seq, b"")
        if child is not None and not self._verdict.done():
            self.stats.restarts += 1
            if self._down_by is not LossCause.CRASHED:
                self._log.warning(
                    "camera.stderr", lines=[self._settings.redact(line) for line in child.stderr]
                )
            self._decide(Loss(LossCause.CRASHED, child.how_it_ended))

    def _answer_jpeg(self, seq: int, jpeg: bytes) -> None:
        pending = self._jpegs.pop(seq, None)
        if pending is not None and not pending.done():
            pending.set_result(jpeg)

    def _decide(self, loss: Loss | None) -> None:
        if not self._verdict.done():
            self._verdict.set_result(loss)

    def _put(self, event: CameraEvent) -> None:
        self._inbox.append(event)
        self._wake()

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)
