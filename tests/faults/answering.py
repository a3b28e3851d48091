"""The core with a real chain over HTTP, in the test's own process: what becomes of events when models misbehave."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg

from daemon.config import Config
from daemon.core import Core
from pipeline.clock import Clock
from pipeline.events import Event
from pipeline.journal import open_journal
from pipeline.store import open_store
from providers.open import open_providers
from tests.faults.oracle import Verdict, check, fingerprint

EVIDENCE = "0.said"
HOUR_S = 3600.0


class Answering:
    """A core at work. What is handed in is written down for the oracle."""

    def __init__(self, core: Core, dsn: str, evidence: Path) -> None:
        self.core = core
        self._dsn = dsn
        self._evidence = evidence

    async def hand_in(self, *events: Event) -> None:
        for event in events:
            sha = fingerprint(event)
            self._say(f"trying {event.id} {sha}")
            if await self.core.intake.event(event):
                self._say(f"accepted {event.id} {sha}")

    async def until_ended(self, within_s: float) -> None:
        """Every event has an outcome, by the loop's clock."""
        async with asyncio.timeout(within_s):
            assert await self.core.intake.open.wait_none(within_s)

    async def rows(self, query: str) -> list[asyncpg.Record]:
        """Once everything that has an outcome is in the database."""
        while not await self.core.uploader.flush():  # noqa: ASYNC110 - the uploader may have the same rows in hand
            await asyncio.sleep(0.05)
        connection = await asyncpg.connect(self._dsn, timeout=HOUR_S)  # the loop's clock may be fast
        try:
            rows: list[asyncpg.Record] = await connection.fetch(query)
            return rows
        finally:
            await connection.close()

    async def outcomes(self) -> dict[str, str]:
        rows = await self.rows("SELECT event_id::text AS id, outcome FROM outcomes")
        return {row["id"]: row["outcome"] for row in rows}

    def _say(self, line: str) -> None:
        with self._evidence.open("a") as file:
            file.write(line + "\n")


async def judged(dsn: str, folder: Path) -> Verdict:
    """What the oracle says of everything that was handed in there. Raises OracleError."""
    return await check(dsn, [folder / EVIDENCE])


@asynccontextmanager
async def answering(
    dsn: str, folder: Path, providers: list[dict[str, Any]], clock: Clock | None = None, **sections: Any
) -> AsyncIterator[Answering]:
    """A core that works until the end of the body. `clock` is the journal's; all other time is the loop's."""
    usual: dict[str, Any] = {
        "state_dir": str(folder / "state"),
        "journal": {"quota_mb": 64},
        "database": {"url": dsn, "connect_timeout_s": 60, "command_timeout_s": 300},
        "providers": providers,
    }
    config, loop, stop = Config.model_validate(usual | sections), asyncio.get_running_loop(), asyncio.Event()
    async with (
        open_journal(config.state_dir, config.journal, clock) as journal,
        open_store(config.database) as store,
        open_providers(config.providers, clock=loop.time) as chain,
        asyncio.TaskGroup() as group,
    ):
        core = Core(config, journal, store, chain, frozenset({"person"}), "drawn", clock=loop.time)
        ready = asyncio.Event()
        group.create_task(core.run(stop.wait, stop, on_ready=ready.set), name="core")
        await ready.wait()
        try:
            yield Answering(core, dsn, folder / EVIDENCE)
        finally:
            stop.set()
