"""Watching one camera: its frames through detector, tracker and rules, until events come out."""

import asyncio
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Protocol

import structlog

from pipeline.camera_events import Blind, Ended, Frame, Lost, Opened, Seeing
from pipeline.clock import since_boot_s
from pipeline.detector import Detector
from pipeline.events import Event, EventKind, Gap
from pipeline.identity import fresh_id
from pipeline.observer import Observer
from pipeline.stages import Stages
from pipeline.triggers import CameraDownSettings
from pipeline.yolo import Detections, DetectorBrokenError, DetectorError

log = structlog.get_logger()

IN_FLIGHT = 3
"""Frames between camera and rules: one for each of two detector streams, and one in the rules' hands."""

FAILURES_IN_A_ROW = 10
"""A detector that fails this often in a row is broken, not unlucky."""


Item = Frame | Opened | Lost | Blind | Seeing | Ended


class Source(Protocol):
    """A camera, as this module uses it."""

    async def next(self) -> Item: ...

    async def jpeg(self, frame: Frame) -> bytes: ...

    def release(self, frame: Frame) -> None: ...


class Sink(Protocol):
    """Where events and gaps go; each returns when they are durable."""

    async def event(self, event: Event, replayed: bool = False) -> object: ...

    async def gap(self, gap: Gap) -> None: ...


@dataclass(frozen=True, slots=True)
class _Step:
    """One thing from the camera, in order; `seen` is the detector's promise for a frame."""

    item: Item
    seen: asyncio.Future[Detections] | None = None


class Watch:
    """One camera's life. `run` returns when a file has ended, or soon after `stop`, with nothing left undone."""

    def __init__(
        self,
        source: Source,
        detector: Detector,
        observer: Observer,
        sink: Sink,
        down: CameraDownSettings,
        only_once: bool = False,
        stages: Stages | None = None,
    ) -> None:
        """With `only_once`, a source that is lost is over, and `lost` says why."""
        self._only_once = only_once
        self.lost: str = ""
        self._source = source
        self._detector = detector
        self._observer = observer
        self._sink = sink
        self._stages = stages or Stages()
        self.down = down
        self._steps: asyncio.Queue[_Step] = asyncio.Queue()
        self._room = asyncio.Semaphore(IN_FLIGHT)
        self._lost: Lost | Blind | None = None
        self._blind_since_s = 0.0
        """Seconds since boot: a clock that is set meanwhile changes nothing."""
        self._down_at: float | None = None
        self._told_down: Event | None = None
        self._detector_failures = 0

    async def run(self, stop: asyncio.Event) -> None:
        name = self._observer.camera
        async with asyncio.TaskGroup() as tasks:
            feeding = tasks.create_task(self._feed(), name=f"{name}: feed")
            stopping = tasks.create_task(_cancel_when(stop, feeding), name=f"{name}: stop")
            await self._follow()
            feeding.cancel()
            stopping.cancel()

    async def _feed(self) -> None:
        """Keeps the detector busy with the next frames while the rules are at the last one."""
        item: Item | None = None
        try:
            while not isinstance(item, Ended):
                await self._room.acquire()
                item = await self._source.next()
                seen = self._submit(item) if isinstance(item, Frame) else None
                self._steps.put_nowait(_Step(item, seen))
        finally:
            if not isinstance(item, Ended):
                self._steps.put_nowait(_Step(Ended()))

    def _submit(self, frame: Frame) -> asyncio.Future[Detections]:
        seen = self._detector.submit(frame.picture, frame.letterbox)
        seen.add_done_callback(partial(self._measure_inference, time.monotonic()))
        return seen

    def _measure_inference(self, began_s: float, seen: asyncio.Future[Detections]) -> None:
        if not seen.cancelled() and seen.exception() is None:
            self._stages.inferred(time.monotonic() - began_s)

    async def _follow(self) -> None:
        while True:
            step = await self._next_step()
            match step.item:
                case Frame():
                    await self._frame(step.item, step.seen)
                case Opened():
                    await self._opened()
                case Lost() if self._only_once:
                    self._lost, self.lost = step.item, step.item.reason
                    return await self._ended()
                case Lost() | Blind():
                    self._blinded(step.item)
                case Seeing():
                    await self._sees_again()
                case Ended():
                    return await self._ended()
            self._room.release()

    def _blinded(self, how: Lost | Blind) -> None:
        """A camera that was blind before it was lost has been so since the first of the two."""
        if self._lost is not None:
            return
        self._lost, self._blind_since_s = how, since_boot_s()
        if self.down.enabled:
            self._down_at = asyncio.get_running_loop().time() + self.down.after_s

    async def _next_step(self) -> _Step:
        """What comes next; on the way, a camera that has been lost for too long is told as down."""
        try:
            async with asyncio.timeout_at(self._down_at):
                return await self._steps.get()
        except TimeoutError:
            await self._went_down()
            return await self._steps.get()

    async def _went_down(self) -> None:
        assert self._lost is not None
        self._down_at = None
        if not self._observer.is_due(EventKind.CAMERA_DOWN, asyncio.get_running_loop().time(), self.down.cooldown_s):
            return
        self._told_down = self._observer.camera_event(
            EventKind.CAMERA_DOWN, self.down.priority, f"no picture for {self.down.after_s:g} s: {self._lost.reason}"
        )
        await self._tell([self._told_down])

    async def _frame(self, frame: Frame, seen: asyncio.Future[Detections] | None) -> None:
        try:
            assert seen is not None
            detections = await seen
            for event in await self._observer.frame(frame, detections, self._source.jpeg):
                await self._sink.event(event, self._observer.replayed)
            self._detector_works()
        except DetectorError as error:
            self._detector_failed(error)
        finally:
            self._source.release(frame)

    def _detector_works(self) -> None:
        if self._detector_failures:
            log.info("detector.ok", camera=self._observer.camera)
        self._detector_failures = 0

    def _detector_failed(self, error: DetectorError) -> None:
        """Nobody knows what was in that frame: the rules do not see it at all."""
        self._detector_failures += 1
        if self._detector_failures == 1:
            log.error("detector.failed", camera=self._observer.camera, error=str(error))
        if self._detector_failures >= FAILURES_IN_A_ROW:
            raise DetectorBrokenError(f"{FAILURES_IN_A_ROW} frames in a row: {error}") from error

    async def _opened(self) -> None:
        await self._tell(self._observer.interrupted())
        await self._sees_again()

    async def _sees_again(self) -> None:
        self._down_at = None
        await self._end_gap()
        if down := self._told_down:
            self._told_down = None
            reason = f"camera is back after {since_boot_s() - self._blind_since_s:.0f} s"
            await self._tell([self._observer.camera_event(EventKind.CAMERA_BACK, self.down.priority, reason, down)])

    async def _ended(self) -> None:
        await self._tell(self._observer.interrupted())
        await self._end_gap()

    async def _end_gap(self) -> None:
        if lost := self._lost:
            self._lost = None
            now = datetime.now(UTC)
            await self._sink.gap(
                Gap(fresh_id(), self._observer.site, self._observer.camera, lost.since, now, lost.reason)
            )

    async def _tell(self, events: list[Event]) -> None:
        for event in events:
            await self._sink.event(event, self._observer.replayed)


async def _cancel_when(event: asyncio.Event, task: asyncio.Task[None]) -> None:
    await event.wait()
    task.cancel()
