"""The line a minute that has every counter, and the one that the service manager shows."""

import asyncio
import os
import resource
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from daemon.systemd import Notifier
from pipeline.uploader import UploadState

if TYPE_CHECKING:
    from daemon.app import App

log = structlog.get_logger()

_PAGE_BYTES = resource.getpagesize()


class Summary:
    """Reads every counter; owns none."""

    def __init__(self, app: "App", upload: UploadState, notifier: Notifier) -> None:
        self._app = app
        self._upload = upload
        self._notifier = notifier

    async def tell_for_ever(self, period_s: float) -> None:
        while True:
            await asyncio.sleep(period_s)
            await self.tell("summary")

    async def tell(self, event: str, **more: Any) -> None:
        """All counters are since the start, but for what waits, which is now."""
        counts = await self._app.journal.counts()
        self._notifier.status(self.sentence(counts))
        log.info(
            event,
            **more,
            accepted=dict(self._app.intake.tally.accepted),
            known=self._app.intake.tally.known,
            outcomes=dict(self._app.tally.outcomes + self._app.intake.tally.ended),
            refused=self._app.intake.tally.refused,
            gaps=self._app.intake.tally.gaps,
            suppressed=self._suppressed(),
            waiting=self._app.queue.depth(),
            retrying=len(self._app.retries),
            journal=counts,
            uploaded=self._upload.uploaded,
            dead_lettered=self._upload.dead_lettered,
            database=self._upload.trouble or "ok",
            cameras={name: self._camera(name) for name in self._app.cameras},
            providers={stats.name: self._provider(stats) for stats in self._app.chain.stats()},
            rss_mb=rss_mb(),
        )

    def sentence(self, counts: dict[str, int]) -> str:
        """For a person: what `systemctl status` shows."""
        states = [camera.stats.state for camera in self._app.cameras.values()]
        up = sum(state == "up" for state in states)
        database = "database ok" if not self._upload.trouble else f"database: {self._upload.trouble}"
        waiting = f"{counts['waiting']} events waiting, {counts['outbox']} rows to upload"
        return f"{up}/{len(states)} cameras up, {waiting}, {database}"

    def _suppressed(self) -> dict[str, int]:
        total: dict[str, int] = {}
        for triggers in self._app.triggers.values():
            for kind, count in triggers.suppressed.items():
                total[kind] = total.get(kind, 0) + count
        return total

    def _camera(self, name: str) -> dict[str, Any]:
        stats = self._app.cameras[name].stats
        return {
            "state": stats.state,
            "grabbed": stats.frames_grabbed,
            "handed": stats.frames_handed,
            "dropped": dict(stats.dropped_by_cause),
            "restarts": stats.restarts,
        }

    @staticmethod
    def _provider(stats: Any) -> dict[str, Any]:
        return {
            "state": stats.state,
            "asked": stats.asked,
            "answered": stats.answered,
            "failures": stats.failures,
            "retries": stats.retries,
            "usd": round(stats.usd, 6),
            "mean_ms": round(stats.seconds / stats.asked * 1000) if stats.asked else None,
        }


def rss_mb() -> int:
    """Resident memory of this process, in MB."""
    pages = int(Path(f"/proc/{os.getpid()}/statm").read_text().split()[1])
    return round(pages * _PAGE_BYTES / 1e6)
