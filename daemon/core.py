"""Everything that an event goes through, but for the camera that it comes from: journal, queue, workers, uploader."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import structlog

from daemon.config import Config
from daemon.tasks import after, either, side_tasks
from pipeline.clock import since_boot_s
from pipeline.events import Event, EventKind
from pipeline.intake import Intake
from pipeline.journal import Journal
from pipeline.questions import questions_for
from pipeline.queue import EventQueue
from pipeline.reconciler import Reconciler
from pipeline.retention import prune_for_ever
from pipeline.stages import Stages
from pipeline.store import Store
from pipeline.uploader import Uploader
from pipeline.worker import Asker, Retries, Worker, WorkTally
from providers.base import Question
from providers.chain import ProviderChain

log = structlog.get_logger()

EXPIRY_CHECK_S = 1.0
FLUSH_RETRY_S = 0.25
FLUSH_S = 5.0
"""At a stop, rows that can't be sent within this wait in the journal for the next start."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a run ended: whether every event has an outcome, and whether every row is in the database."""

    done: bool
    flushed: bool


class Core:
    """`labels` are those that the detector can report, `detector` its name; `clock` is the queue's."""

    def __init__(
        self,
        config: Config,
        journal: Journal,
        store: Store,
        chain: ProviderChain,
        labels: frozenset[str],
        detector: str,
        clock: Callable[[], float] = since_boot_s,
        stages: Stages | None = None,
    ) -> None:
        self.config = config
        self.journal = journal
        self.chain = chain
        self.queue = EventQueue(config.queue, clock)
        self.stages = stages or Stages()
        self.intake = Intake(journal, self.queue, self.questions_for, self.stages)
        self.tally = WorkTally()
        self.retries = Retries(self.queue, config.workers)
        self.reconciler = Reconciler(journal, self.queue, self.retries, self.intake)
        self.uploader = Uploader(
            journal,
            store,
            batch_rows=config.database.batch_rows,
            batch_bytes=config.database.batch_bytes,
            stages=self.stages,
        )
        self.tasks: list[asyncio.Task[Any]] = []
        """Those that must live as long as the daemon does."""
        asker = Asker(chain, self.questions_for, labels, detector)
        parts = (self.queue, journal, asker, self.retries, self.intake.open, config.workers, self.tally, self.stages)
        self.workers = [Worker(*parts) for _ in range(config.workers.count)]
        self._store = store
        self._asked = cache(partial(questions_for, config.questions))

    def is_asked(self, camera: str, kind: EventKind) -> bool:
        """Whether anything is asked about such an event, so that it needs a picture."""
        return bool(self._asked(camera, kind))

    def questions_for(self, event: Event) -> tuple[Question, ...]:
        return self._asked(event.camera, event.kind)

    def use(self, config: Config) -> None:
        """From now on ask the questions of this configuration."""
        self.config = config
        self._asked = cache(partial(questions_for, config.questions))

    async def run(
        self,
        produce: Callable[[], Awaitable[object]],
        stop: asyncio.Event,
        *,
        until_eof: bool = False,
        database_started: asyncio.Event | None = None,
        on_ready: Callable[[], None] = lambda: None,
    ) -> Ended:
        """Take up what an earlier run left, then work until `produce`, which makes the events, has returned; drain.

        With `until_eof`, draining waits until no event is open, or none has ended for long. `database_started` is
        when it first makes sense to try the database. Raises JournalError as soon as nothing can be accepted.
        """
        started = database_started or _set()
        async with side_tasks(
            journal_watch=_raise_when_failed(self.journal),
            expiry=self._expire_for_ever(),
            reconciler=self.reconciler.run(),
        ) as tasks:
            self.tasks += tasks
            await self.intake.resume(await self.journal.recover())
            on_ready()
            retention = prune_for_ever(self._store, self.config.database.retention_days)
            async with side_tasks(uploader=after(started, self.uploader.run), retention=retention) as uploading:
                self.tasks.append(uploading[0])
                done = await self._work(produce, stop, until_eof)
                self.tasks.clear()
            flushed = await self._flush(
                started, self.config.drain_s if until_eof else min(self.config.drain_s, FLUSH_S)
            )
        return Ended(done, flushed)

    async def _work(self, produce: Callable[[], Awaitable[object]], stop: asyncio.Event, until_eof: bool) -> bool:
        """Workers, until what makes events has ended and they have drained. True: no event is left."""
        try:
            async with asyncio.timeout(None) as deadline, asyncio.TaskGroup() as workers:
                for index, worker in enumerate(self.workers):
                    self.tasks.append(workers.create_task(worker.work(), name=f"worker {index}"))
                await produce()
                if until_eof:
                    await either(self.intake.open.wait_none(self._patience_s()), stop.wait())
                log.info("daemon.draining", waiting=len(self.queue), retrying=len(self.retries))
                self.tasks.clear()
                self.queue.close()
                deadline.reschedule(asyncio.get_running_loop().time() + self.config.drain_s)
        except TimeoutError:
            log.warning("daemon.drain_cut", waiting=len(self.queue), hint="the rest goes on at the next start")
        self.retries.cancel()
        return self.intake.open.count == 0

    async def _expire_for_ever(self) -> None:
        while True:
            await self.intake.expire()
            await asyncio.sleep(EXPIRY_CHECK_S)

    def _patience_s(self) -> float:
        """How long no event may end before a finite run gives the rest up for this time."""
        timeouts = [getattr(provider, "timeout_s", 0.0) for provider in self.config.providers]
        return self.config.drain_s + max(timeouts, default=0.0)

    async def _flush(self, started: asyncio.Event, within_s: float) -> bool:
        """Send what is left; False if the database was not there in time. The rows wait in the journal."""
        try:
            async with asyncio.timeout(within_s):
                await started.wait()
                while not await self.uploader.flush():  # noqa: ASYNC110 - what is awaited is a database that is away
                    await asyncio.sleep(FLUSH_RETRY_S)
        except TimeoutError:
            log.warning("upload.unfinished", hint="the rows wait in the journal for the next start")
            return False
        return True


def _set() -> asyncio.Event:
    event = asyncio.Event()
    event.set()
    return event


async def _raise_when_failed(journal: Journal) -> None:
    await journal.failed
