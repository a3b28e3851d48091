"""The line a minute that has every counter, and the one that the service manager shows."""

import asyncio
import os
import resource
from pathlib import Path
from typing import Any

import structlog

from daemon.core import Core
from daemon.reload import Reload
from daemon.systemd import Notifier
from daemon.watching import Watching

log = structlog.get_logger()

_PAGE_BYTES = resource.getpagesize()


class Summary:
    """Reads every counter; owns none."""

    def __init__(self, core: Core, watching: Watching, notifier: Notifier, reload: Reload) -> None:
        self._core = core
        self._watching = watching
        self._upload = core.uploader.state
        self._notifier = notifier
        self._reload = reload

    async def tell_for_ever(self, period_s: float) -> None:
        while True:
            await asyncio.sleep(period_s)
            await self.tell("summary")

    async def tell(self, event: str, **more: Any) -> None:
        """All counters are since the start, but for what waits, which is now."""
        counts = await self._core.journal.counts()
        self._notifier.status(self.sentence(counts))
        log.info(
            event,
            **more,
            accepted=dict(self._core.intake.tally.accepted),
            known=self._core.intake.tally.known,
            outcomes=dict(self._core.tally.outcomes + self._core.intake.tally.ended),
            refused=self._core.intake.tally.refused,
            gaps=self._core.intake.tally.gaps,
            suppressed=self._suppressed(),
            waiting=self._core.queue.depth(),
            retrying=len(self._core.retries),
            journal=counts,
            uploaded=self._upload.uploaded,
            dead_lettered=self._upload.dead_lettered,
            database=self._upload.trouble or "ok",
            cameras={name: self._camera(name) for name in self._watching.cameras},
            providers={stats.name: self._provider(stats) for stats in self._core.chain.stats()},
            rss_mb=rss_mb(),
        )

    def sentence(self, counts: dict[str, int]) -> str:
        """For a person: what `systemctl status` shows."""
        states = [camera.stats.state for camera in self._watching.cameras.values()]
        up = sum(state == "up" for state in states)
        database = "database ok" if not self._upload.trouble else f"database: {self._upload.trouble}"
        waiting = f"{counts['waiting']} events waiting, {counts['outbox']} rows to upload"
        refused = f"; configuration refused: {self._reload.refused}" if self._reload.refused else ""
        return f"{up}/{len(states)} cameras up, {waiting}, {database}{refused}"

    def _suppressed(self) -> dict[str, int]:
        total: dict[str, int] = {}
        for triggers in self._watching.triggers.values():
            for kind, count in triggers.suppressed.items():
                total[kind] = total.get(kind, 0) + count
        return total

    def _camera(self, name: str) -> dict[str, Any]:
        stats = self._watching.cameras[name].stats
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
