"""The daemon's own path from camera to event: camera processes, detector, tracker, rules. Events are counted."""

import asyncio
import json
import os
import resource
import statistics
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import uvloop

from daemon.snapshot import ProcessSnapshot, process_now
from pipeline.camera import Camera, CameraEvent
from pipeline.camera_events import Frame
from pipeline.camera_link import DetectorInput
from pipeline.camera_settings import CameraSettings
from pipeline.detector import Detector, DetectorSettings, open_detector
from pipeline.events import Event, Gap
from pipeline.observer import Observer
from pipeline.tracker import Tracker
from pipeline.tracks import TrackerSettings
from pipeline.triggers import CameraDownSettings, Triggers, TriggerSettings, watched_labels
from pipeline.watch import Watch

SAMPLE_S = 0.2


class Counting:
    """Where events end here."""

    def __init__(self) -> None:
        self.events = 0

    async def event(self, event: Event, replayed: bool = False) -> None:
        self.events += 1

    async def gap(self, gap: Gap) -> None:
        return


class Timed:
    """A camera that notes when its first frame came and how many there were."""

    def __init__(self, camera: Camera) -> None:
        self._camera = camera
        self.first_s: float | None = None
        self.frames = 0
        self.jpeg, self.release = camera.jpeg, camera.release

    async def next(self) -> CameraEvent:
        item = await self._camera.next()
        if isinstance(item, Frame):
            self.first_s = self.first_s or time.perf_counter()
            self.frames += 1
        return item


class ChildMemory:
    """How much memory a camera process has, looked at again and again. (What the kernel tells of an ended child
    would include this process's own size at the moment of the fork.)"""

    def __init__(self) -> None:
        self._samples: list[float] = [0.0]

    @property
    def mb(self) -> float:
        """Resident, the median of all looks."""
        return statistics.median(self._samples)

    async def watch(self) -> None:
        while True:
            await asyncio.sleep(SAMPLE_S)
            for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split():
                with suppress(OSError):
                    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
                    self._samples.append(pages * resource.getpagesize() / 1e6)


async def run(clip: str, model: str, size_px: int, clips: int, pace: str = "full") -> dict[str, Any]:
    settings = DetectorSettings(model=Path(model), size_px=size_px)
    async with open_detector(settings) as detector, asyncio.TaskGroup() as group:
        memory = ChildMemory()
        sampling = group.create_task(memory.watch())
        tasks = [group.create_task(_watch(f"clip{index}", clip, pace, detector)) for index in range(clips)]
        timed = await asyncio.gather(*tasks)
        ended = time.perf_counter()
        sampling.cancel()
        memory_mb = round(process_now(ProcessSnapshot()).rss_bytes / 1e6)
    firsts = [one.first_s for one, _ in timed if one.first_s]
    grabbed = sum(stats.frames_grabbed for _, stats in timed)
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "frames_per_s": sum(one.frames for one, _ in timed) / (ended - min(firsts)),
        "frames": grabbed,
        "handed": sum(one.frames for one, _ in timed),
        "cpu_s": own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime,
        "rss_mb": memory_mb,
        "child_rss_mb": memory.mb,
    }


async def _watch(name: str, clip: str, pace: str, detector: Detector) -> tuple[Timed, Any]:
    settings = CameraSettings(name=name, url=clip, pace=pace, detect_fps=60 if pace == "full" else 10)
    triggers = Triggers(TriggerSettings(), watched_labels(TriggerSettings(), detector.labels))
    observer = Observer("bench", name, Tracker(TrackerSettings(), 10), triggers, lambda _kind: True)
    async with Camera(settings, DetectorInput(detector.size_px, detector.fixed_input)) as camera:
        timed = Timed(camera)
        await Watch(timed, detector, observer, Counting(), CameraDownSettings(), only_once=True).run(asyncio.Event())
        return timed, camera.stats


if __name__ == "__main__":
    print(json.dumps(uvloop.run(run(**json.loads(sys.argv[1])))))
