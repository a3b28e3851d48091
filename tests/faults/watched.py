"""Cameras watched as the daemon watches them: real processes, detector thread, tracker, rules and journal. Only the
network is made up: it sees a person in whatever it is shown."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.camera import Camera, CameraSettings, CameraState
from pipeline.detector import Detector, DetectorSettings
from pipeline.events import Event
from pipeline.intake import Intake
from pipeline.journal import Journal, JournalSettings, open_journal
from pipeline.letterbox import Picture
from pipeline.observer import Observer
from pipeline.queue import EventQueue, QueueSettings
from pipeline.tracker import Tracker
from pipeline.tracks import TrackerSettings
from pipeline.triggers import CameraDownSettings, Triggers, TriggerSettings
from pipeline.watch import Watch
from pipeline.yolo import ModelInfo, Output
from providers.base import Question
from tests.cameras.watching import INPUT
from tests.pipeline.makers import COUNT

PATIENCE_S = 30.0


class SeesAPerson:
    """A network that finds one person, a little further on in each picture."""

    info = ModelInfo(("person",), False, None, None)
    streams = 1
    max_batch = 1

    def __init__(self) -> None:
        self.looked = 0

    def infer(self, batch: Sequence[Picture]) -> list[Output]:
        self.looked += len(batch)
        along = 60.0 + self.looked % 100
        return [np.array([[along], [100.0], [40.0], [80.0], [0.9]], np.float32) for _ in batch]

    def forget(self) -> None:
        return


class Watched:
    """What came of it: rows of the journal, the counters of each camera, and how often the network looked."""

    def __init__(self, journal: Journal, queue: EventQueue, network: SeesAPerson, cameras: dict[str, Camera]) -> None:
        self.network, self.cameras = network, cameras
        self._journal, self._queue = journal, queue
        self.stop = asyncio.Event()
        self.watching: list[asyncio.Task[None]] = []

    async def end(self) -> None:
        """Watch no more: nothing is grabbed, and what is open is told."""
        self.stop.set()
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.wait(self.watching)

    @property
    def asked(self) -> int:
        """Events that wait for a model."""
        return len(self._queue)

    async def rows(self, table: str) -> list[dict[str, Any]]:
        rows = await self._journal.outbox(10_000, 10**9)
        return [json.loads(row.body) for row in rows if row.table == table]

    async def until_row(self, table: str, **wanted: str) -> dict[str, Any]:
        """The first row in which all of these stand."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                for row in await self.rows(table):
                    if all(row[column] == value for column, value in wanted.items()):
                        return row
                await asyncio.sleep(0.05)

    async def until_state(self, camera: str, state: CameraState) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while self.cameras[camera].stats.state is not state:  # noqa: ASYNC110 - the state is told to no one
                await asyncio.sleep(0.05)

    async def until_looked(self, times: int) -> None:
        """The network has looked so many times more."""
        enough = self.network.looked + times
        async with asyncio.timeout(PATIENCE_S):
            while self.network.looked < enough:  # noqa: ASYNC110 - another thread counts
                await asyncio.sleep(0.05)


@asynccontextmanager
async def watched(state_dir: Path, *cameras: CameraSettings, down_after_s: float = 0.5) -> AsyncIterator[Watched]:
    """From the moment in which all of them are supervised until the body ends."""

    def questions(event: Event) -> tuple[Question, ...]:
        return (COUNT,) if event.jpeg else ()

    rules = TriggerSettings(camera_down=CameraDownSettings(after_s=down_after_s))
    async with open_journal(state_dir, JournalSettings(quota_mb=16)) as journal, a_detector() as (detector, network):
        queue = EventQueue(QueueSettings())
        intake = Intake(journal, queue, questions)
        box = Watched(journal, queue, network, {})

        async def watch(settings: CameraSettings) -> None:
            tracker = Tracker(TrackerSettings(), settings.detect_fps)
            triggers = Triggers(rules, frozenset({"person"}))
            observer = Observer("test", settings.name, tracker, triggers, lambda _kind: True)
            async with Camera(settings, INPUT) as camera:
                box.cameras[settings.name] = camera
                await Watch(camera, detector, observer, intake, rules.camera_down).run(box.stop)

        async with asyncio.TaskGroup() as tasks:
            box.watching = [tasks.create_task(watch(settings), name=settings.name) for settings in cameras]
            try:
                while len(box.cameras) < len(cameras):  # noqa: ASYNC110 - as soon as their tasks have begun
                    await asyncio.sleep(0)
                yield box
            finally:
                await box.end()


@asynccontextmanager
async def a_detector() -> AsyncIterator[tuple[Detector, SeesAPerson]]:
    network = SeesAPerson()
    detector = Detector(network, DetectorSettings(confidence=0.5))
    thread = threading.Thread(target=detector.run, name="detector", daemon=True)
    thread.start()
    try:
        yield detector, network
    finally:
        detector.close()
        await asyncio.to_thread(thread.join, 5.0)
