"""Journal, queue, intake and uploader as the daemon has them, on a disk and with a database that can fail, and what
they have promised."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import cast
from uuid import UUID

import apsw

from pipeline.clock import Clock
from pipeline.events import Event, EventOutcome, Priority
from pipeline.intake import Intake
from pipeline.journal import Journal, JournalSettings, open_journal
from pipeline.journal_file import Ending, Leased
from pipeline.journal_schema import JournalError
from pipeline.queue import EventQueue, QueueSettings
from pipeline.reconciler import Reconciler
from pipeline.rows import event_from_row
from pipeline.store import Store
from pipeline.uploader import Uploader
from pipeline.worker import Asker, Retries, Worker, WorkerSettings, WorkTally
from providers.base import Failure, Outcome, ProviderError, Question, Request
from tests.faults.power_cut import Disk, DiskState, a_disk, write_files
from tests.faults.strict_store import FAULTS, POISON, StrictStore, Tables
from tests.pipeline.makers import COUNT, NOW, an_analysis, an_event

UNASKED = "unasked"
"""A camera about whose events nothing is asked."""

SETTINGS = JournalSettings.model_construct(quota_mb=1, reserve_mb=0, floor_mb=0)
QUEUE_LIMIT = 12
WORKERS = 2
WORKER_SETTINGS = WorkerSettings(linger_s=0)

Action = Callable[[Random], Awaitable[None]]


class Clocks(Clock):
    """Boot time goes on; wall time, anyone sets; a power cut is another boot."""

    def __init__(self) -> None:
        self.boot_s = 100.0
        self.wall_s = NOW.timestamp()
        self._boots = 1
        self.boot_id = "boot 1"

    def boot(self) -> float:
        return self.boot_s

    def wall(self) -> float:
        return self.wall_s

    def synced(self) -> bool:
        return True

    def pass_s(self, seconds: float) -> None:
        self.boot_s += seconds
        self.wall_s += seconds

    def boot_again(self) -> None:
        self._boots += 1
        self.boot_id, self.boot_s = f"boot {self._boots}", 10.0


@dataclass(slots=True)
class Promises:
    """What was asked of it, and what it has acknowledged."""

    asked: dict[UUID, Event] = field(default_factory=dict)
    accepted: set[UUID] = field(default_factory=set)
    ended: dict[UUID, EventOutcome] = field(default_factory=dict)

    def copy(self) -> "Promises":
        return Promises(dict(self.asked), set(self.accepted), dict(self.ended))


@dataclass(frozen=True, slots=True)
class Remains:
    """What is left when it ends: the disk, the database, and what was promised by then."""

    state: DiskState
    tables: Tables
    promises: Promises


class Moody:
    """A provider that answers, fails, or, sooner or later, hangs."""

    name = "moody"

    def __init__(self, luck: Random) -> None:
        self.hangs = asyncio.Event()
        self._luck = luck
        self._calls_left = luck.randint(0, 8)

    async def analyze(self, requests: Sequence[Request]) -> list[Outcome]:
        self._calls_left -= 1
        if self._calls_left < 0:
            self.hangs.set()
            await asyncio.Event().wait()
        return [self._outcome(request) for request in requests]

    async def probe(self) -> str:
        return "as always"

    def _outcome(self, request: Request) -> Outcome:
        failure = self._luck.choice((None, None, Failure.UNAVAILABLE, Failure.TIMEOUT, Failure.INVALID_OUTPUT))
        return ProviderError(failure, "moody") if failure else an_analysis(request.event_id)


class Breakable:
    """Choices are made by luck alone."""

    def __init__(self, folder: Path) -> None:
        self.clocks = Clocks()
        self.promises = Promises()
        self.store = StrictStore()
        self._hands: dict[UUID, tuple[Leased, ExitStack]] = {}
        self._recorded: list[Event] = []
        self._folder = folder
        self._starts = 0
        self._minted = 0
        self._life = AsyncExitStack()
        self._changes_left: int | None = None
        self._error: apsw.Error | None = None
        self._remains: Remains | None = None

    async def start(self, files: dict[str, bytes]) -> None:
        self._starts += 1
        folder = self._folder / f"{self._starts}"
        write_files(folder, files)
        self._life = AsyncExitStack()
        self._disk = self._life.enter_context(a_disk(self._before_change))
        opening = open_journal(folder, SETTINGS, self.clocks, vfs=self._disk.name)
        self.journal: Journal = await self._life.enter_async_context(opening)
        self.queue = EventQueue(QueueSettings(limit=QUEUE_LIMIT), self.clocks.boot)
        self.intake = Intake(self.journal, self.queue, _questions_for)
        self.uploader = Uploader(self.journal, cast(Store, self.store), batch_rows=8)
        self._retries = Retries(self.queue, WORKER_SETTINGS)
        self._reconciler = Reconciler(self.journal, self.queue, self._retries, self.intake)
        self._hands = {}
        await self.intake.resume(await self.journal.recover())

    async def stop(self) -> None:
        await self._life.aclose()

    async def restart(self) -> None:
        """Orderly: the journal is closed and opened again."""
        await self.stop()
        remains = self._now()
        await self._start_over(remains, remains.state.whole())

    # What it does.

    async def accept(self, luck: Random) -> None:
        """Some events at once, in one commit."""
        await self._accept_all([self._an_event(luck) for _ in range(luck.randint(1, 4))], luck)

    async def flood(self, luck: Random) -> None:
        """More than queue and quota hold."""
        await self._accept_all([self._an_event(luck, at_least_bytes=60_000) for _ in range(luck.randint(10, 30))], luck)

    async def _accept_all(self, events: Sequence[Event], luck: Random) -> None:
        async with asyncio.TaskGroup() as group:
            for event in events:
                is_recorded = luck.random() < 0.3
                self._recorded += [event] if is_recorded else []
                group.create_task(self._accept(event, is_recorded))

    async def tell_again(self, luck: Random) -> None:
        """A recording is played once more."""
        if self._recorded:
            await self._accept(luck.choice(self._recorded), True)

    async def take(self, luck: Random) -> None:
        """A worker takes a batch: the critical ones first, and each waits in the journal, as it was told."""
        if not len(self.queue):
            return
        critical = self.queue.depth()["critical"]
        ids = await self.queue.take(luck.randint(1, 4), linger_s=0)
        urgent = [self.promises.asked[event_id].priority is Priority.CRITICAL for event_id in ids]
        assert urgent == [place < critical for place in range(len(ids))]
        leased = await self.journal.lease(ids, suspects=True)
        assert [each.event for each in leased] == [self.promises.asked[event_id] for event_id in ids]
        for each in leased:
            hand = ExitStack()
            hand.enter_context(self.intake.open.hold([each.event.id]))
            self._hands[each.event.id] = each, hand

    async def finish(self, luck: Random) -> None:
        outcome = luck.choice((EventOutcome.DONE, EventOutcome.DEGRADED, EventOutcome.FAILED))
        await self._end(_some_of(self._hands, luck), outcome)

    async def release(self, luck: Random) -> None:
        ids = _some_of(self._hands, luck)
        middle = luck.randint(0, len(ids))
        await self.journal.release(ids[:middle], ids[middle:])
        for event_id in ids:
            leased = self._let_go(event_id)
            self.queue.put_back(event_id, leased.event.priority, leased.age_s)

    async def expire(self, luck: Random) -> None:
        self.clocks.pass_s(luck.choice((1.0, 1800.0, 30_000.0)))
        await self.intake.expire()

    async def upload(self, luck: Random) -> None:
        self.store.faults = [luck.choice(FAULTS) for _ in range(luck.randint(0, 4))]
        for _ in range(luck.randint(1, 3)):
            await self.uploader.flush()
        self.store.faults = []

    async def retry(self, luck: Random) -> None:
        """Somebody has what was refused sent once more."""
        await self.journal.retry_dead_letters(None)

    async def forget(self, luck: Random) -> None:
        """Memory loses what waits, and a worker what it had; the reconciler finds it again."""
        for event_id in _some_of(self._in_memory(), luck):
            self.queue.discard(event_id)
        for event_id in _some_of(self._hands, luck):
            self._let_go(event_id)
        for _ in range(4):
            await self._reconciler.look()
        assert self._in_memory() == {each.id for each in await self.journal.waiting()}
        assert set(self._hands) == set(await self.journal.leased())

    async def drain(self, luck: Random) -> None:
        """The daemon stops: real workers go through the queue, and are cut short if a provider hangs; the next start
        takes up what is left."""
        provider = Moody(luck)
        asker = Asker(provider, _questions_for, frozenset({"person"}), "drawn")
        self.queue.close()
        parts = (self.queue, self.journal, asker, self._retries, self.intake.open, WORKER_SETTINGS, WorkTally())
        workers = [asyncio.create_task(Worker(*parts).work()) for _ in range(WORKERS)]
        either = [asyncio.create_task(asyncio.wait(workers)), asyncio.create_task(provider.hangs.wait())]
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        for task in (*either, *workers):
            task.cancel()
        results = await asyncio.gather(*workers, return_exceptions=True)
        assert all(result is None or isinstance(result, asyncio.CancelledError) for result in results)
        self._retries.cancel()
        await self.restart()

    # What happens to it: in the middle of an action, so many changes of the disk after its beginning.

    async def lose_power(self, action: Action, luck: Random, changes: int) -> None:
        remains = await self._remains_of(action, luck, changes)
        self.clocks.boot_again()
        await self._start_over(remains, remains.state.cut(luck))

    async def be_killed(self, action: Action, luck: Random, changes: int) -> None:
        remains = await self._remains_of(action, luck, changes)
        await self._start_over(remains, remains.state.whole())

    async def meet_a_disk_error(self, action: Action, luck: Random, changes: int) -> None:
        """The journal fails, and with it all that asks it for something; the process ends and is started again."""
        self._changes_left, self._error = changes, apsw.IOError("disk I/O error")
        doing = asyncio.ensure_future(action(luck))
        await asyncio.wait({doing, self.journal.failed}, return_when=asyncio.FIRST_COMPLETED)
        doing.cancel()
        [result] = await asyncio.gather(doing, return_exceptions=True)
        was_met, self._changes_left, self._error = self._error is None, None, None
        if not was_met:
            assert result is None
            return
        assert isinstance(self.journal.failed.exception(), JournalError)
        remains = self._now()
        await self._start_over(remains, remains.state.whole())

    # What it must be like.

    async def audit(self) -> None:
        """At any time: what was accepted is open, or has its one outcome; nothing is there that nobody asked for."""
        waiting = {each.id for each in await self.journal.waiting()}
        is_open = waiting | set(await self.journal.leased())
        told, ended, dead = await self._rows()
        assert not self.store.contradictions
        assert told.items() <= {id_: replace(event, jpeg=b"") for id_, event in self.promises.asked.items()}.items()
        assert self.promises.accepted <= told.keys() | dead
        assert self.promises.ended.items() <= ended.items()
        assert (told.keys() | dead) == is_open | ended.keys()
        assert not is_open & ended.keys()
        assert self._in_memory() <= waiting
        assert self._hands.keys() <= is_open - waiting
        assert self.intake.open.count == len(is_open)

    async def settle(self) -> None:
        """After all faults: everything ends, everything arrives, and a fresh event passes."""
        await self.restart()
        await self._work_off()
        await self._accept(fresh := an_event(), False)
        await self._work_off()
        assert self.promises.ended[fresh.id] is EventOutcome.DONE

    async def _work_off(self) -> None:
        while len(self.queue):
            await self.take(Random(0))
        await self._end(list(self._hands), EventOutcome.DONE)
        assert await self.uploader.flush()
        await self.audit()
        counts = await self.journal.counts()
        assert (counts["waiting"], counts["leased"], counts["outbox"]) == (0, 0, 0)

    async def _rows(self) -> tuple[dict[UUID, Event], dict[UUID, EventOutcome], set[UUID]]:
        """On their way or in the database: events, outcomes, and the ids of events whose own row was refused."""
        outbox = [(each.table, json.loads(each.body)) for each in await self.journal.outbox(10**6, 10**9)]
        database = [(table, values) for table, rows in self.store.tables.items() for values in rows.values()]
        rows = outbox + database
        told = {UUID(values["event_id"]): event_from_row(values, b"") for table, values in rows if table == "events"}
        ended = {UUID(values["event_id"]): EventOutcome(values["outcome"]) for t, values in rows if t == "outcomes"}
        letters = [json.loads(values["payload"]) for table, values in rows if table == "dead_letters"]
        return told, ended, {UUID(values["event_id"]) for values in letters}

    def _in_memory(self) -> set[UUID]:
        return {event_id for event_id in self.promises.asked if event_id in self.queue}

    def _let_go(self, event_id: UUID) -> Leased:
        leased, hand = self._hands.pop(event_id)
        hand.close()
        return leased

    async def _accept(self, event: Event, is_recorded: bool) -> None:
        self.promises.asked[event.id] = event
        if await self.intake.event(event, replayed=is_recorded) is not False:
            self.promises.accepted.add(event.id)

    async def _end(self, ids: list[UUID], outcome: EventOutcome) -> None:
        is_answered = outcome is not EventOutcome.FAILED
        endings = [Ending(id_, outcome, "as told", an_analysis(id_) if is_answered else None) for id_ in ids]
        assert all(await self.journal.finish(endings))
        self.intake.open.end(ids)
        self.promises.ended |= dict.fromkeys(ids, outcome)
        for event_id in ids:
            self._let_go(event_id)

    def _an_event(self, luck: Random, at_least_bytes: int = 0) -> Event:
        camera = luck.choice(("yard", "yard", "yard", UNASKED, POISON))
        jpeg = luck.randbytes(max(at_least_bytes, luck.choice((0, 10, 1000, 90_000))))
        self._minted += 1
        return an_event(luck.choice(list(Priority)), id=UUID(int=self._minted), camera=camera, jpeg=jpeg)

    async def _remains_of(self, action: Action, luck: Random, changes: int) -> Remains:
        self._changes_left = changes
        await action(luck)
        self._changes_left = None
        remains, self._remains = self._remains or self._now(), None
        return remains

    async def _start_over(self, remains: Remains, files: dict[str, bytes]) -> None:
        await self.stop()
        self.promises = remains.promises
        self.store.tables, self.store.faults = remains.tables, []
        await self.start(files)

    def _now(self) -> Remains:
        promises = self.promises.copy()  # before the disk: what is acknowledged by now must be on it
        return Remains(self._disk.state(), self.store.copy(), promises)

    def _before_change(self, _: Disk, what: str) -> None:
        """In the journal's thread."""
        if self._changes_left is None:
            return
        self._changes_left -= 1
        if self._changes_left < 0:
            self._changes_left = None
            if self._error:
                error, self._error = self._error, None
                raise error
            self._remains = self._now()


def _questions_for(event: Event) -> tuple[Question, ...]:
    return () if event.camera == UNASKED else (COUNT,)


def _some_of(items: Iterable[UUID], luck: Random) -> list[UUID]:
    listed = sorted(items)
    return luck.sample(listed, luck.randint(0, len(listed)))
