"""Somebody sets the clock, there is no right time yet, the machine sleeps: order and patience don't depend on it."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from daemon.config import Config
from daemon.core import Core
from pipeline.clock import Clock
from pipeline.events import Event, Priority
from pipeline.identity import fresh_id
from pipeline.journal import open_journal
from pipeline.store import open_store
from pipeline.uploader import Uploader
from providers.chain import ProviderChain
from providers.guard import Guarded
from tests.faults.box import QUICK
from tests.faults.minting import an_event
from tests.faults.proxy import a_proxy
from tests.faults.script import Script, ScriptedProvider

TODAY = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
HOUR_S, YEAR_S = 3600.0, 365.0 * 24 * 3600.0
ALL_WELL, ALL_DOWN = Script(slow=0, degraded=0, unusable=0, away=0), Script(down=True)


class SetClock(Clock):
    """Boot time runs on as it does; the wall clock is what somebody has set it to."""

    def __init__(self, wall: datetime = TODAY, is_synced: bool = True) -> None:
        self.boot_id = "a boot"
        self.is_synced = is_synced
        self._slept_s = 0.0
        self.set(wall)

    def set(self, wall: datetime) -> None:
        self._ahead_s = wall.timestamp() - self.boot()

    def step(self, seconds: float) -> None:
        self._ahead_s += seconds

    def sleep(self, seconds: float) -> None:
        """The machine is suspended: both clocks have gone on, and no timer has."""
        self._slept_s += seconds

    def boot(self) -> float:
        return time.monotonic() + self._slept_s

    def wall(self) -> float:
        return self.boot() + self._ahead_s

    def synced(self) -> bool:
        return self.is_synced


class Home:
    """A core at work in this process, with what a test moves: its clock and its provider."""

    def __init__(self, core: Core, clock: SetClock, provider: ScriptedProvider) -> None:
        self.clock = clock
        self.provider = provider
        self._core = core

    async def accept(self, priority: Priority = Priority.MEDIUM) -> Event:
        event = an_event("home", priority, self.clock.now(), picture_bytes=100, is_asked=True)
        assert await self._core.intake.event(event)
        return event

    async def until_asked_in_vain(self) -> None:
        """An event waits for another try."""
        while not len(self._core.retries):  # noqa: ASYNC110 - a daemon's counter, no event
            await asyncio.sleep(0.01)


@asynccontextmanager
async def a_home(dsn: str, folder: Path, clock: SetClock, script: Script = ALL_WELL) -> AsyncIterator[Home]:
    """At its end it drains."""
    sections: dict[str, Any] = {
        "workers": {"retry_first_s": 0.2, "retry_max_s": 0.4, "batch_size": 1, "count": 1},
        "database": {"url": dsn},
    }
    config = Config(state_dir=folder / "state", **sections)
    provider, stop = ScriptedProvider(script), asyncio.Event()
    async with open_journal(config.state_dir, config.journal, clock) as journal, open_store(config.database) as store:
        chain = ProviderChain([Guarded(provider, clock=lambda: 100 * time.monotonic())])  # its breaker closes soon
        core = Core(config, journal, store, chain, frozenset(), "none", clock=clock.boot)
        core.uploader = Uploader(journal, store, pauses=QUICK)
        async with asyncio.TaskGroup() as group:
            running = group.create_task(core.run(stop.wait, stop, until_eof=True))
            yield Home(core, clock, provider)
            stop.set()
        assert running.result().flushed


async def until_ended(connection: asyncpg.Connection, *events: Event) -> list[str]:
    """How they ended, once all have."""
    ids = [event.id for event in events]
    query = "SELECT event_id, outcome FROM outcomes WHERE event_id = ANY($1)"
    while len(ended := dict(await connection.fetch(query, ids))) < len(ids):  # noqa: ASYNC110 - only asking tells
        await asyncio.sleep(0.02)
    return [ended[event_id] for event_id in ids]


@pytest.mark.parametrize("step_s", [YEAR_S, -HOUR_S, -56 * YEAR_S], ids=["a year on", "an hour back", "1970"])
async def test_a_clock_that_is_set_while_an_event_waits_for_another_try_changes_nothing(
    database: str, connection: asyncpg.Connection, tmp_path: Path, step_s: float
) -> None:
    """Case 47."""
    async with a_home(database, tmp_path, SetClock(), ALL_DOWN) as home:
        before = await home.accept(Priority.LOW)
        await home.until_asked_in_vain()
        home.clock.step(step_s)
        after = await home.accept(Priority.LOW)
        home.provider.script = ALL_WELL
        assert await until_ended(connection, before, after) == ["done", "done"]


@pytest.mark.parametrize("step_s", [YEAR_S, -HOUR_S], ids=["a year on", "an hour back"])
async def test_a_clock_that_is_set_while_the_database_is_away_changes_nothing(
    database: str, connection: asyncpg.Connection, tmp_path: Path, step_s: float
) -> None:
    """Case 47."""
    async with a_proxy(database) as proxy:
        await proxy.close()
        async with a_home(proxy.dsn, tmp_path, SetClock()) as home:
            before = await home.accept()
            home.clock.step(step_s)
            after = await home.accept()
            await proxy.open()
            assert await until_ended(connection, before, after) == ["done", "done"]


async def test_a_clock_that_is_set_between_two_lives_neither_expires_nor_keeps_what_waits(
    database: str, connection: asyncpg.Connection, tmp_path: Path
) -> None:
    """Case 47. Within one boot, boot time says how old an event is."""
    clock = SetClock()
    async with a_home(database, tmp_path, clock, ALL_DOWN) as home:
        waiting = await home.accept(Priority.LOW)
        await home.until_asked_in_vain()
    clock.step(YEAR_S)
    async with a_home(database, tmp_path, clock):
        assert await until_ended(connection, waiting) == ["done"]


async def test_rows_from_before_the_time_was_known_say_so_and_can_be_put_right(
    database: str, connection: asyncpg.Connection, tmp_path: Path
) -> None:
    """Case 47. Booted in 1970, the box is told the time an hour later."""
    async with a_home(database, tmp_path, SetClock(datetime.fromtimestamp(0, UTC), is_synced=False)) as home:
        early = await home.accept()
        home.clock.sleep(HOUR_S)
        home.clock.set(TODAY)
        home.clock.is_synced = True
        late = await home.accept()
        await until_ended(connection, early, late)
    flags = dict(await connection.fetch("SELECT event_id, clock_synced FROM events"))
    assert flags == {early.id: False, late.id: True}
    put_right = await connection.fetchval("""
        SELECT late.accepted_at - (late.boot_s - early.boot_s) * interval '1 s'
        FROM events early JOIN events late USING (boot_id) WHERE late.clock_synced AND NOT early.clock_synced
    """)
    assert abs(put_right - (TODAY - timedelta(hours=1))) < timedelta(seconds=60)


async def test_what_waited_while_the_machine_slept_is_older_by_that_time(
    database: str, connection: asyncpg.Connection, tmp_path: Path
) -> None:
    """Case 48. An hour is what a low event may wait, a day a high one."""
    async with a_home(database, tmp_path, SetClock(), ALL_DOWN) as home:
        low, high = await home.accept(Priority.LOW), await home.accept(Priority.HIGH)
        await home.until_asked_in_vain()
        home.clock.sleep(2 * HOUR_S)
        assert await until_ended(connection, low) == ["expired"]
        home.provider.script = ALL_WELL
        assert await until_ended(connection, high) == ["done"]


def test_the_queue_ages_by_the_clock_that_goes_on_while_the_machine_sleeps() -> None:
    """Case 48. Here nothing can be suspended; so: it is this clock that the queue is given."""
    assert abs(Core.__init__.__defaults__[0]() - time.clock_gettime(time.CLOCK_BOOTTIME)) < 60  # type: ignore[index]


def test_ids_stay_unique_when_the_clock_is_set_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Case 47."""
    monkeypatch.setattr(time, "time_ns", a_clock_that_is_set_again_and_again().__next__)
    ids = [fresh_id() for _ in range(3000)]
    assert len(set(ids)) == len(ids)
    assert {each.version for each in ids} == {7}


def a_clock_that_is_set_again_and_again() -> Iterator[int]:
    now_s = TODAY.timestamp()
    while True:
        for step_s in (0.0, YEAR_S, -YEAR_S, -HOUR_S, HOUR_S, 0.001, -now_s, now_s):
            now_s += step_s
            yield max(0, round(now_s * 1e9))
