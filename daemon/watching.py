"""Which cameras are watched, by which rules; both may change while they are."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from daemon.config import Config
from pipeline.camera import Camera
from pipeline.camera_link import DetectorInput
from pipeline.camera_settings import CameraSettings
from pipeline.detector import Detector
from pipeline.events import EventKind
from pipeline.identity import Recording
from pipeline.observer import Observer
from pipeline.stages import Stages
from pipeline.tracker import Tracker
from pipeline.triggers import Triggers, watched_labels
from pipeline.watch import Sink, Watch

log = structlog.get_logger()


@dataclass(slots=True)
class _Watched:
    settings: CameraSettings
    triggers: Triggers
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    watch: Watch | None = None
    task: asyncio.Task[None] | None = None


@dataclass(frozen=True, slots=True)
class Changes:
    """What a new configuration did to the cameras, by name."""

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    restarted: tuple[str, ...] = ()


class Watching:
    """Watches the enabled cameras of a configuration. `is_asked` says whether anything is asked about such an event.

    With `only_once`, a source that is lost is over; it is counted in `unread`.
    """

    def __init__(
        self,
        config: Config,
        detector: Detector,
        sink: Sink,
        is_asked: Callable[[str, EventKind], bool],
        only_once: bool = False,
        stages: Stages | None = None,
    ) -> None:
        self.cameras: dict[str, Camera] = {}
        self.unread = 0
        self._config = config
        self._detector = detector
        self._sink = sink
        self._is_asked = is_asked
        self._only_once = only_once
        self._stages = stages or Stages()
        self._watched: dict[str, _Watched] = {}
        self._group: asyncio.TaskGroup | None = None

    @property
    def triggers(self) -> dict[str, Triggers]:
        return {name: watched.triggers for name, watched in self._watched.items()}

    async def run(self, cameras: tuple[CameraSettings, ...], stop: asyncio.Event) -> None:
        """Until `stop` is set or, with `only_once`, until every one of them has ended; nothing is left undone."""
        async with asyncio.TaskGroup() as self._group:
            for settings in cameras:
                self._start(settings)
            if self._only_once:
                await self._all_ended_or(stop)
            else:
                await stop.wait()
            for watched in self._watched.values():
                watched.stop.set()
        self._group = None

    async def apply(self, config: Config) -> Changes:
        """Watch what this configuration says. A camera whose own settings and tracker are the same goes on as it is:
        its process, its connection and its tracks stay, and the new rules hold from the next frame on."""
        wanted = {camera.name: camera for camera in enabled(config)}
        same_tracker = config.tracker == self._config.tracker
        kept = {
            name for name, watched in self._watched.items() if same_tracker and wanted.get(name) == watched.settings
        }
        gone = [name for name in self._watched if name not in kept]
        self._config = config
        await asyncio.gather(*(self._end(name) for name in gone))
        for name in kept:
            self._follow_rules(self._watched[name])
        for name in wanted:
            if name not in kept:
                self._start(wanted[name])
        restarted = tuple(name for name in gone if name in wanted)
        return Changes(
            added=tuple(name for name in wanted if name not in kept and name not in gone),
            removed=tuple(name for name in gone if name not in wanted),
            restarted=restarted,
        )

    def _start(self, settings: CameraSettings) -> None:
        if self._group is None:
            return  # stopping: nothing new begins
        watched = _Watched(settings, self._new_triggers())
        self._watched[settings.name] = watched
        watched.task = self._group.create_task(self._watch(watched), name=f"camera {settings.name}")

    async def _end(self, name: str) -> None:
        watched = self._watched.pop(name)
        watched.stop.set()
        if watched.task is not None:
            await asyncio.wait({watched.task})
        self.cameras.pop(name, None)

    async def _all_ended_or(self, stop: asyncio.Event) -> None:
        """Files end by themselves; a stop ends them sooner."""
        waiting = asyncio.ensure_future(stop.wait())
        tasks = {watched.task for watched in self._watched.values() if watched.task}
        while tasks and not waiting.done():
            await asyncio.wait({waiting, *tasks}, return_when=asyncio.FIRST_COMPLETED)
            tasks = {task for task in tasks if not task.done()}
        waiting.cancel()

    def _new_triggers(self) -> Triggers:
        rules = self._config.triggers
        return Triggers(rules, watched_labels(rules, self._detector.labels))

    def _follow_rules(self, watched: _Watched) -> None:
        rules = self._config.triggers
        watched.triggers.settings = rules
        watched.triggers.labels = watched_labels(rules, self._detector.labels)
        if watched.watch is not None:
            watched.watch.down = rules.camera_down

    async def _watch(self, watched: _Watched) -> None:
        settings, config = watched.settings, self._config
        observer = Observer(
            config.site,
            settings.name,
            Tracker(config.tracker, settings.detect_fps),
            watched.triggers,
            lambda kind: self._is_asked(settings.name, kind),
            _recording(config.site, settings),
        )
        async with Camera(settings, DetectorInput(self._detector.size_px, self._detector.fixed_input)) as camera:
            self.cameras[settings.name] = camera
            watch = Watch(
                camera,
                self._detector,
                observer,
                self._sink,
                config.triggers.camera_down,
                only_once=self._only_once,
                stages=self._stages,
            )
            watched.watch = watch
            await watch.run(watched.stop)
        if watch.lost:
            log.error("camera.unreadable", camera=settings.name, reason=watch.lost)
            self.unread += 1


def enabled(config: Config) -> tuple[CameraSettings, ...]:
    return tuple(camera for camera in config.cameras if camera.enabled)


def _recording(site: str, settings: CameraSettings) -> Recording | None:
    """A file read once and whole is the same evidence at every run; anything else is live."""
    if settings.is_live or settings.loop or settings.pace != "full":
        return None
    return Recording(site, settings.name, Path(settings.url.get_secret_value()))
