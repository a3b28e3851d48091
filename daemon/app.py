"""The wiring: what is opened, in which order it lives, and how it ends."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import structlog

from daemon.config import Config, ConfigError, check_labels
from daemon.control import control_server
from daemon.core import Core
from daemon.embedded import embedded_postgres
from daemon.http_surface import http_surface
from daemon.logs import DaemonLogs
from daemon.model_servers import ModelServers
from daemon.reload import LoadConfig, Reload
from daemon.snapshot import Snapshots
from daemon.summary import Summary
from daemon.systemd import Notifier
from daemon.tasks import after, either, side_tasks
from daemon.tokens import tokens
from daemon.watchdog import Watchdog
from daemon.watching import Watching, enabled
from pipeline.camera_settings import CameraSettings
from pipeline.detector import open_detector
from pipeline.journal import open_journal
from pipeline.stages import Stages
from pipeline.store import Store, open_store
from providers.open import open_providers

log = structlog.get_logger()

EXTEND_EVERY_S = 5.0
EXTEND_BY_S = 30.0
"""While it starts, the service manager is asked for this much more time, again and again: recovery takes what it
takes, and a start that is stuck ends all the same once nobody asks any more."""
MODELS_WITHIN_S = 300.0
"""A recording is watched when the model servers that are ours have loaded, or then."""


async def serve(
    config: Config,
    stop: asyncio.Event,
    notifier: Notifier,
    logs: DaemonLogs,
    load: LoadConfig | None = None,
    until_eof: bool = False,
) -> bool:
    """Run until `stop` is set or, with `until_eof`, until every recording has been watched to its end; then drain.

    `load` reads the configuration anew, whenever its `wanted` is set. The nesting is the order of life: what stands
    further in ends first. True when nothing is left to do.
    Raises ConfigError, DetectorError, JournalError for what can't be used at all.
    """
    cameras = _cameras(config, until_eof)
    stages = Stages()
    async with (
        side_tasks(extending=_extend_for_ever(notifier)) as (extending,),
        open_journal(config.state_dir, config.journal, site=config.site) as journal,
        _open_database(config) as (store, database_started),
        open_providers(config.providers, stages.called) as chain,
        open_detector(config.detector) as detector,
    ):
        check_labels(config, detector.labels)
        core = Core(config, journal, store, chain, detector.labels, detector.name, stages=stages)
        watching = Watching(config, detector, core.intake, core.is_asked, only_once=until_eof, stages=stages)
        model_servers = ModelServers()
        model_servers.apply(config.providers)
        reload = Reload(config, core, watching, chain, store, detector.labels, model_servers)
        watchdog = Watchdog(lambda: tokens(core, watching, detector), notifier)
        snapshots = Snapshots(
            core,
            watching,
            redact=logs.redactor,
            log_lines_dropped=lambda: logs.writer.dropped,
            configuration_refused=lambda: reload.refused,
        )
        summary = Summary(snapshots, notifier)
        ready = asyncio.Event()

        def on_ready() -> None:
            extending.cancel()
            ready.set()
            notifier.ready(f"watching {len(cameras)} cameras")
            labels = sorted(detector.labels)[:20]
            log.info("daemon.ready", cameras=len(cameras), detector=detector.name, labels=labels)

        def missing() -> list[str]:
            return [] if ready.is_set() else ["journal: what an earlier run left is being taken up"]

        async with (
            control_server(config.state_dir, journal),
            http_surface(config.http, snapshots.now, stages, stale=watchdog.stale, missing=missing),
            side_tasks(
                watchdog=after(ready, watchdog.feed_for_ever),
                summary=summary.tell_for_ever(config.log.summary_s),
                status=after(ready, lambda: summary.show_for_ever(stop)),
                reload=reload.serve_for_ever(load),
                model_servers=model_servers.run(),
            ),
        ):
            if until_eof:  # a recording can wait; what is live can't, and its first events go to who is there
                await either(model_servers.settled(), stop.wait(), asyncio.sleep(MODELS_WITHIN_S))
            ended = await core.run(
                lambda: watching.run(cameras, stop),
                stop,
                until_eof=until_eof,
                database_started=database_started,
                on_ready=on_ready,
            )
            await summary.tell("daemon.stopped", flushed=ended.flushed)
        return ended.done and ended.flushed and not watching.unread


def _cameras(config: Config, until_eof: bool) -> tuple[CameraSettings, ...]:
    """Those to watch. Raises ConfigError where a finite run has nothing that ends."""
    if not until_eof:
        return enabled(config)
    finite = tuple(camera for camera in enabled(config) if not camera.is_live and not camera.loop)
    if not finite:
        raise ConfigError(["cameras: --until-eof needs one that is a file or folder, without loop"])
    if missing := [camera for camera in finite if not Path(camera.url.get_secret_value()).exists()]:
        raise ConfigError([f"cameras: {camera.name}: no such file or folder: {camera.redacted}" for camera in missing])
    for camera in enabled(config):
        if camera not in finite:
            log.warning("camera.left_out", camera=camera.name, hint="it has no end, and this run waits for one")
    return finite


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
        side_tasks(postgres=embedded.supervise()),
        open_store(config.database, embedded.dsn) as store,
    ):
        yield store, embedded.has_started


async def _extend_for_ever(notifier: Notifier) -> None:
    while True:
        notifier.extend(EXTEND_BY_S)
        await asyncio.sleep(EXTEND_EVERY_S)
