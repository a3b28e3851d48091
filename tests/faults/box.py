"""A box to be hurt: the real core with the real journal and the real store, fed by a generator in the place of
cameras. `python -m tests.faults.box JSON` runs one; tests mostly take them from the nursery.

Says, a line each and at once: `trying ID SHA` before it hands an event in, `accepted ID SHA` when that is durable,
`ready` when it has taken up what an earlier life left, and at the end `ended JSON`.
"""

import asyncio
import json
import random
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Self
from uuid import UUID

import uvloop

from daemon.config import Config
from daemon.core import Core
from daemon.logs import LogSettings, configure_logs
from daemon.tasks import either
from pipeline.clock import Clock
from pipeline.events import Priority
from pipeline.journal import open_journal
from pipeline.store import open_store
from pipeline.uploader import Pauses, Uploader
from providers.chain import ProviderChain
from providers.guard import Guarded, Limits
from tests.faults.hurry import HastyClock, HastyLoop
from tests.faults.minting import an_event
from tests.faults.mutations import MUTATIONS
from tests.faults.oracle import fingerprint
from tests.faults.resources import resident_kb
from tests.faults.script import Script, ScriptedProvider

QUICK = Pauses(transient_first_s=0.02, transient_max_s=0.1, configuration_first_s=0.1, configuration_max_s=0.2)
"""Pauses short enough for a test; with `pauses = "own"` they are the daemon's own."""

LOOK_S = 1.0
UNDONE = 3
"""Exit status: something is left for the next life."""


@dataclass(frozen=True, slots=True)
class BoxSettings:
    """`count` 0: until SIGTERM. `at_once`: events on their way into the journal at the same time."""

    state_dir: str
    dsn: str
    seed: str = "0"
    site: str = "test"
    count: int = 0
    events_per_s: float = 400.0
    at_once: int = 8
    picture_bytes: int = 2000
    priorities: tuple[str, ...] = ("critical", "high", "medium", "low")
    time_rate: float = 1.0
    clock_jump_s: float = 0.0
    pauses: str = "quick"
    quiet: bool = False
    """No line in the log for each event."""
    ids_lost: float = 0.0
    """Share of ids that the memory loses between queue and worker."""
    poison: float = 0.0
    """Share of events that the database can't take."""
    mutation: str = ""
    orders: str = ""
    """A file that it reads at each SIGHUP: what to do otherwise from now on. See `Orders`."""
    script: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    """Sections of the configuration, over those that suit a test."""

    @property
    def is_hasty(self) -> bool:
        return self.time_rate != 1.0 or self.clock_jump_s != 0.0

    def as_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        return cls(**json.loads(text))


def main(settings: BoxSettings) -> int:
    """Live. The exit status: 0 when every event has an outcome and every row is in the database."""
    configure_logs(LogSettings(format="json", level="warning" if settings.quiet else "info"), stream=sys.stderr)
    random.seed(settings.seed)
    if settings.mutation:
        MUTATIONS[settings.mutation]()
    if not settings.is_hasty:
        return uvloop.run(_live(settings))
    with asyncio.Runner(loop_factory=partial(HastyLoop, settings.time_rate)) as runner:
        return runner.run(_live(settings))


async def _live(settings: BoxSettings) -> int:
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    clock = HastyClock(settings.time_rate, settings.clock_jump_s) if settings.is_hasty else Clock()
    provider = ScriptedProvider(Script(**settings.script))
    async with _core(settings, clock, provider) as core:
        generator = Generator(settings, core, clock, stop)
        if settings.orders:
            orders = Orders(Path(settings.orders), generator, provider, clock)
            loop.add_signal_handler(signal.SIGHUP, orders.follow)
        ready = partial(print, "ready", flush=True)
        ended = await core.run(generator.run, stop, until_eof=bool(settings.count), on_ready=ready)
        counts = await core.journal.counts()
    told = {"done": ended.done, "flushed": ended.flushed, "peak_kb": resident_kb(most=True), **counts}
    print("ended", json.dumps(told), flush=True)
    return 0 if ended.done and ended.flushed else UNDONE


@asynccontextmanager
async def _core(settings: BoxSettings, clock: Clock, provider: ScriptedProvider) -> AsyncIterator[Core]:
    config, loop = _config(settings), asyncio.get_running_loop()
    chain = ProviderChain([Guarded(provider, Limits(timeout_s=5), clock=loop.time)], clock=loop.time)
    async with (
        open_journal(config.state_dir, config.journal, clock) as journal,
        open_store(config.database) as store,
    ):
        core = Core(config, journal, store, chain, frozenset({"person"}), "drawn", clock=loop.time)
        if settings.pauses == "quick":
            core.uploader = Uploader(journal, store, batch_rows=config.database.batch_rows, pauses=QUICK)
        if settings.ids_lost:
            _lose_ids(core, settings.ids_lost)
        yield core


def _config(settings: BoxSettings) -> Config:
    usual: dict[str, Any] = {
        "site": settings.site,
        "state_dir": settings.state_dir,
        "drain_s": 20,
        "journal": {"quota_mb": 64},
        "queue": {"limit": 1000},
        "workers": {"count": 2, "retry_first_s": 0.02, "retry_max_s": 0.2},
        "database": {"connect_timeout_s": 2, "command_timeout_s": 2},
    }
    for section, values in settings.config.items():
        usual[section] = usual[section] | values if isinstance(values, dict) else values
    usual["database"]["url"] = settings.dsn
    return Config.model_validate(usual)


def _lose_ids(core: Core, share: float) -> None:
    """What a bug, or a flipped bit, would do: the id of an event is gone from memory, and no one is told."""
    take = core.queue.take

    async def take_and_lose(size: int, linger_s: float) -> list[UUID]:
        while ids := await take(size, linger_s):
            if kept := [event_id for event_id in ids if random.random() >= share]:
                return kept
        return []

    core.queue.take = take_and_lose  # type: ignore[method-assign]


class Generator:
    """Hands in events until `count` of them, or until it is told to stop. Says `empty` when it has been paused and
    everything that it ever handed in is in the database."""

    def __init__(self, settings: BoxSettings, core: Core, clock: Clock, stop: asyncio.Event) -> None:
        self.events_per_s = settings.events_per_s
        self.go_on = asyncio.Event()
        self.go_on.set()
        self.pausing: asyncio.Future[None] | None = None
        self._settings = settings
        self._core = core
        self._clock = clock
        self._stop = stop
        self._left = settings.count or sys.maxsize
        self._on_their_way = 0

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(self._settings.at_once):
                group.create_task(self._hand_in_for_ever(), name=f"generator {number}")

    async def pause(self) -> None:
        self.go_on.clear()
        while not await self._is_empty():  # noqa: ASYNC110 - the database takes its time
            await asyncio.sleep(LOOK_S)
        print("empty", flush=True)

    async def _is_empty(self) -> bool:
        counts = await self._core.journal.counts()
        return not self._on_their_way and not any(counts[place] for place in ("waiting", "leased", "outbox"))

    async def _hand_in_for_ever(self) -> None:
        while self._left and not self._stop.is_set():
            if not self.go_on.is_set():
                await either(self.go_on.wait(), self._stop.wait())
                continue
            self._left -= 1
            self._on_their_way += 1
            await self._hand_in()
            self._on_their_way -= 1
            await asyncio.sleep(random.uniform(0.5, 1.5) * self._settings.at_once / self.events_per_s)

    async def _hand_in(self) -> None:
        priority = Priority[random.choice(self._settings.priorities).upper()]
        event = an_event(self._settings.site, priority, self._clock.now(), self._settings.picture_bytes)
        if random.random() < self._settings.poison:
            event = replace(event, track_id=2**63)
            print("poison", event.id, flush=True)
        sha = fingerprint(event)
        print("trying", event.id, sha, flush=True)
        if await self._core.intake.event(event):
            print("accepted", event.id, sha, flush=True)


@dataclass(frozen=True, slots=True)
class Orders:
    """A JSON object: `script`, `events_per_s`, `clock_jump_s`, `paused`. What is left out is as it was."""

    file: Path
    generator: Generator
    provider: ScriptedProvider
    clock: Clock

    def follow(self) -> None:
        orders = json.loads(self.file.read_text())
        if "script" in orders:
            self.provider.script = Script(**orders["script"])
        if "clock_jump_s" in orders and isinstance(self.clock, HastyClock):
            self.clock.jump_s = orders["clock_jump_s"]
        self.generator.events_per_s = orders.get("events_per_s", self.generator.events_per_s)
        if self.generator.pausing:
            self.generator.pausing.cancel()
            self.generator.go_on.set()
        if orders.get("paused"):
            self.generator.pausing = asyncio.ensure_future(self.generator.pause())


if __name__ == "__main__":
    sys.exit(main(BoxSettings.from_json(sys.argv[1])))
