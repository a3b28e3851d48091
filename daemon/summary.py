"""The line a minute that has every counter, and the sentence that the service manager shows."""

import asyncio
from collections.abc import Iterator
from typing import Any

import structlog

from daemon.snapshot import CameraSnapshot, Snapshot, Snapshots
from daemon.systemd import Notifier
from pipeline.camera import CameraState
from providers.tally import ProviderStats

log = structlog.get_logger()

STATUS_PERIOD_S = 1.0
NAMED_CAMERAS = 3
MINUTE_S, HOUR_S, DAY_S = 60, 3600, 86400


class Summary:
    """Tells what the snapshots show."""

    def __init__(self, snapshots: Snapshots, notifier: Notifier) -> None:
        self._snapshots = snapshots
        self._notifier = notifier

    async def tell_for_ever(self, period_s: float) -> None:
        while True:
            await asyncio.sleep(period_s)
            await self.tell("summary")

    async def show_for_ever(self, stop: asyncio.Event) -> None:
        """Keeps the snapshots fresh, and shows the newest to the service manager."""
        while True:
            await self._snapshots.refresh()
            told = sentence(self._snapshots.now())
            self._notifier.status(f"draining: {told}" if stop.is_set() else told)
            await asyncio.sleep(STATUS_PERIOD_S)

    async def tell(self, event: str, **more: Any) -> None:
        """All counters are since the start, but for what waits, which is now."""
        await self._snapshots.refresh(at_once=True)
        now = self._snapshots.now()
        log.info(
            event,
            **more,
            accepted=dict(now.events.accepted),
            known=now.events.known,
            outcomes=dict(now.events.outcomes),
            refused=now.events.refused,
            gaps=now.events.gaps,
            suppressed=dict(now.events.suppressed),
            waiting=dict(now.queue.waiting),
            retrying=now.queue.retrying,
            oldest_s=round(now.queue.oldest_s, 1),
            journal={
                "waiting": now.journal.waiting,
                "leased": now.journal.leased,
                "outbox": now.journal.outbox,
                "dead_letters": now.journal.dead_letters,
            },
            uploaded=now.database.uploaded,
            dead_lettered=now.database.dead_lettered,
            database=now.database.trouble or "ok",
            cameras={camera.name: _camera(camera) for camera in now.cameras},
            providers={provider.name: _provider(provider) for provider in now.providers},
            rss_mb=round(now.process.rss_bytes / 1e6),
            open_fds=now.process.open_fds,
            threads=now.process.threads,
        )


def sentence(now: Snapshot) -> str:
    """For a person: what `systemctl status` shows. No secret, as none is in a snapshot."""
    return ", ".join(_parts(now))


def _parts(now: Snapshot) -> Iterator[str]:
    yield _cameras(now.cameras)
    waiting = now.journal.waiting + now.journal.leased
    yield f"queue {waiting}"
    if waiting:
        yield f"oldest {short(now.queue.oldest_s)}"
    if now.journal.outbox:
        yield f"pending {now.journal.outbox}"
    yield _database(now)
    if now.journal.dead_letters:
        yield f"dead letters {now.journal.dead_letters}"
    yield "providers " + " ".join(f"{one.name}:{'ok' if one.state == 'up' else one.state}" for one in now.providers)
    if now.configuration_refused:
        yield f"configuration refused: {now.configuration_refused}"


def _cameras(cameras: tuple[CameraSnapshot, ...]) -> str:
    others = [f"{camera.name} {camera.state}" for camera in cameras if camera.state is not CameraState.UP]
    told = f"cams {len(cameras) - len(others)}/{len(cameras)}"
    if not others:
        return told
    more = f", {len(others) - NAMED_CAMERAS} more" if len(others) > NAMED_CAMERAS else ""
    return f"{told} ({', '.join(others[:NAMED_CAMERAS])}{more})"


def _database(now: Snapshot) -> str:
    if now.database.state != "down":
        return f"pg {'ok' if now.database.state == 'up' else now.database.state}"
    return f"pg down {short(now.database.down_s)} ({now.database.trouble})"


def short(seconds: float) -> str:
    """`8s`, `3m`, `2h`, `5d`: its largest unit alone."""
    for unit, length_s in (("d", DAY_S), ("h", HOUR_S), ("m", MINUTE_S)):
        if seconds >= length_s:
            return f"{seconds // length_s:.0f}{unit}"
    return f"{int(seconds)}s"


def _camera(camera: CameraSnapshot) -> dict[str, Any]:
    return {
        "state": camera.state,
        "grabbed": camera.grabbed,
        "handed": camera.handed,
        "dropped": dict(camera.dropped),
        "restarts": camera.restarts,
    }


def _provider(stats: ProviderStats) -> dict[str, Any]:
    return {
        "state": stats.state,
        "asked": stats.asked,
        "answered": stats.answered,
        "failures": stats.failures,
        "retries": stats.retries,
        "usd": round(stats.usd, 6),
        "mean_ms": round(stats.seconds / stats.asked * 1000) if stats.asked else None,
    }
