"""The wiring: what is opened, in which order it lives, and how it ends."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any

import structlog

from daemon.config import Config, ConfigError, check_labels
from daemon.embedded import embedded_postgres
from daemon.summary import Summary
from daemon.systemd import Notifier
from pipeline.camera import Camera
from pipeline.camera_link import DetectorInput
from pipeline.camera_settings import CameraSettings
from pipeline.detector import Detector, open_detector
from pipeline.events import Event
from pipeline.identity import Recording
from pipeline.intake import Intake
from pipeline.journal import Journal, open_journal
from pipeline.observer import Observer
from pipeline.questions import questions_for
from pipeline.queue import EventQueue
from pipeline.retention import prune_for_ever
from pipeline.store import Store, open_store
from pipeline.tracker import Tracker
from pipeline.triggers import Triggers, watched_labels
from pipeline.uploader import Uploader
from pipeline.watch import Watch
from pipeline.worker import Asker, Retries, WorkTally, work
from providers.base import Question
from providers.chain import ProviderChain
from providers.open import open_providers

log = structlog.get_logger()

EXPIRY_CHECK_S = 1.0
FLUSH_RETRY_S = 0.25


async def serve(config: Config, stop: asyncio.Event, notifier: Notifier, until_eof: bool = False) -> bool:
    """Run until `stop` is set or, with `until_eof`, until every recording has been watched to its end; then drain.

    The nesting is the order of life: what stands further in ends first. True when nothing is left to do.
    Raises ConfigError, DetectorError, JournalError for what can't be used at all.
    """
    cameras = _cameras(config, until_eof)
    async with (
        open_journal(config.state_dir, config.journal) as journal,
        _open_database(config) as (store, database_started),
        open_providers(config.providers) as chain,
        open_detector(config.detector) as detector,
    ):
        check_labels(config, detector.labels)
        app = App(config, journal, chain, detector)
        uploader = Uploader(
            journal, store, batch_rows=config.database.batch_rows, batch_bytes=config.database.batch_bytes
        )
        summary = Summary(app, uploader.state, notifier)
        async with _side_tasks(
            journal_watch=_raise_when_failed(journal),
            expiry=app.expire_for_ever(),
            summary=summary.tell_for_ever(config.log.summary_s),
        ):
            await app.intake.resume(await journal.recover())
            notifier.ready(f"watching {len(cameras)} cameras")
            log.info("daemon.ready", cameras=len(cameras), detector=detector.name, labels=sorted(detector.labels)[:20])
            retention = prune_for_ever(store, config.database.retention_days)
            async with _side_tasks(uploader=_after(database_started, uploader.run), retention=retention):
                done = await app.run(cameras, stop, until_eof)
                notifier.stopping()
            flushed = await _flush(
                uploader, database_started, config.drain_s if until_eof else min(config.drain_s, 5.0)
            )
            await summary.tell("daemon.stopped", flushed=flushed)
            return done and flushed


class App:
    """What the parts share while the daemon runs."""

    def __init__(self, config: Config, journal: Journal, chain: ProviderChain, detector: Detector) -> None:
        self.config = config
        self.journal = journal
        self.chain = chain
        self.queue = EventQueue(config.queue)
        self.intake = Intake(journal, self.queue, self.questions_for)
        self.tally = WorkTally()
        self.retries = Retries(self.queue, config.workers)
        self.cameras: dict[str, Camera] = {}
        self.triggers: dict[str, Triggers] = {}
        self.unread = 0
        self._detector = detector
        self._asked = cache(partial(questions_for, config.questions))

    def questions_for(self, event: Event) -> tuple[Question, ...]:
        return self._asked(event.camera, event.kind)

    async def run(self, cameras: tuple[CameraSettings, ...], stop: asyncio.Event, until_eof: bool) -> bool:
        """Cameras and workers, until the cameras are gone and the workers have drained. True: nothing is left."""
        asker = Asker(self.chain, self.questions_for, self._detector.labels, self._detector.name)
        settings = self.config.workers
        try:
            async with asyncio.timeout(None) as deadline, asyncio.TaskGroup() as workers:
                for index in range(settings.count):
                    job = work(self.queue, self.journal, asker, self.retries, self.intake.open, settings, self.tally)
                    workers.create_task(job, name=f"worker {index}")
                await self._watch_all(cameras, stop, until_eof)
                if until_eof:
                    await _either(self.intake.open.wait_none(self._patience_s()), stop.wait())
                log.info("daemon.draining", waiting=len(self.queue), retrying=len(self.retries))
                self.queue.close()
                deadline.reschedule(asyncio.get_running_loop().time() + self.config.drain_s)
        except TimeoutError:
            log.warning("daemon.drain_cut", waiting=len(self.queue), hint="the rest goes on at the next start")
        self.retries.cancel()
        return self.intake.open.count == 0 and self.unread == 0

    async def expire_for_ever(self) -> None:
        while True:
            await self.intake.expire()
            await asyncio.sleep(EXPIRY_CHECK_S)

    def _patience_s(self) -> float:
        """How long no event may end before a finite run gives the rest up for this time."""
        timeouts = [getattr(provider, "timeout_s", 0.0) for provider in self.config.providers]
        return self.config.drain_s + max(timeouts, default=0.0)

    async def _watch_all(self, cameras: tuple[CameraSettings, ...], stop: asyncio.Event, until_eof: bool) -> None:
        if not cameras:
            await stop.wait()
            return
        async with asyncio.TaskGroup() as watching:
            for camera in cameras:
                watching.create_task(self._watch(camera, stop, until_eof), name=f"camera {camera.name}")
            if not until_eof:
                await stop.wait()

    async def _watch(self, settings: CameraSettings, stop: asyncio.Event, until_eof: bool) -> None:
        config, detector = self.config, self._detector
        triggers = Triggers(config.triggers, watched_labels(config.triggers, detector.labels))
        self.triggers[settings.name] = triggers
        observer = Observer(
            config.site,
            settings.name,
            Tracker(config.tracker, settings.detect_fps),
            triggers,
            lambda kind: bool(self._asked(settings.name, kind)),
            _recording(config.site, settings),
        )
        async with Camera(settings, DetectorInput(detector.size_px, detector.fixed_input)) as camera:
            self.cameras[settings.name] = camera
            watch = Watch(camera, detector, observer, self.intake, config.triggers.camera_down, only_once=until_eof)
            await watch.run(stop)
        if watch.lost:
            log.error("camera.unreadable", camera=settings.name, reason=watch.lost)
            self.unread += 1


def _cameras(config: Config, until_eof: bool) -> tuple[CameraSettings, ...]:
    """Those to watch. Raises ConfigError where a finite run has nothing that ends."""
    enabled = tuple(camera for camera in config.cameras if camera.enabled)
    if not until_eof:
        return enabled
    finite = tuple(camera for camera in enabled if not camera.is_live and not camera.loop)
    if not finite:
        raise ConfigError(["cameras: --until-eof needs one that is a file or folder, without loop"])
    if missing := [camera for camera in finite if not Path(camera.url.get_secret_value()).exists()]:
        raise ConfigError([f"cameras: {camera.name}: no such file or folder: {camera.redacted}" for camera in missing])
    for camera in enabled:
        if camera not in finite:
            log.warning("camera.left_out", camera=camera.name, hint="it has no end, and this run waits for one")
    return finite


def _recording(site: str, settings: CameraSettings) -> Recording | None:
    """A file read once and whole is the same evidence at every run; anything else is live."""
    if settings.is_live or settings.loop or settings.pace != "full":
        return None
    return Recording(site, settings.name, Path(settings.url.get_secret_value()))


@asynccontextmanager
async def _open_database(config: Config) -> AsyncIterator[tuple[Store, asyncio.Event]]:
    """The configured database, or the embedded one, and when it makes sense to try it for the first time.

    Opens while either is away.
    """
    if config.database.url.get_secret_value():
        async with open_store(config.database) as store:
            (at_once := asyncio.Event()).set()
            yield store, at_once
        return
    async with (
        embedded_postgres(config.state_dir, wait=False) as embedded,
        _side_tasks(postgres=embedded.supervise()),
        open_store(config.database, embedded.dsn) as store,
    ):
        yield store, embedded.has_started


@asynccontextmanager
async def _side_tasks(**jobs: Coroutine[Any, Any, Any]) -> AsyncIterator[None]:
    """Run these beside the body and end them with it. One that fails ends the body too."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(job, name=name) for name, job in jobs.items()]
        yield
        for task in tasks:
            task.cancel()


async def _either(*jobs: Coroutine[Any, Any, Any]) -> None:
    """Until the first of them is done; the others are cancelled."""
    tasks = [asyncio.ensure_future(job) for job in jobs]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()


async def _raise_when_failed(journal: Journal) -> None:
    await journal.failed


async def _after(started: asyncio.Event, job: Callable[[], Coroutine[Any, Any, Any]]) -> None:
    await started.wait()
    await job()


async def _flush(uploader: Uploader, started: asyncio.Event, within_s: float) -> bool:
    """Send what is left; False if the database was not there in time. The rows wait in the journal."""
    try:
        async with asyncio.timeout(within_s):
            await started.wait()
            while not await uploader.flush():  # noqa: ASYNC110 - what is awaited is a database that is away
                await asyncio.sleep(FLUSH_RETRY_S)
    except TimeoutError:
        log.warning("upload.unfinished", hint="the rows wait in the journal for the next start")
        return False
    return True
