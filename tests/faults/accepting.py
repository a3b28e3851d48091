"""A process that accepts events as fast as its disk lets it: `python -m tests.faults.accepting FOLDER COUNT AT_ONCE`.

Says `accepted ID SHA` after each commit, or `refused ID`, and at the end, however it ends, `ended JSON`: the longest
time for which the event loop did not answer, and for which a command waited for its commit. Exits with 1 where the
journal failed, as the daemon does. `blocking` as last argument syncs the folder in the loop, too, as no one should.
"""

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import structlog

from pipeline.clock import Clock
from pipeline.events import Event, Priority
from pipeline.intake import Intake
from pipeline.journal import Journal, JournalSettings, open_journal
from pipeline.journal_schema import JournalError
from pipeline.queue import EventQueue, QueueSettings
from tests.faults.minting import an_event
from tests.faults.oracle import fingerprint
from tests.pipeline.makers import COUNT

TICK_S = 0.01


class Lag:
    """How long the loop, and the journal, let wait at most."""

    def __init__(self) -> None:
        self.loop_s = 0.0
        self.command_s = 0.0

    async def measure(self, journal: Journal) -> None:
        loop = asyncio.get_running_loop()
        while True:
            before = loop.time()
            await asyncio.sleep(TICK_S)
            self.loop_s = max(self.loop_s, loop.time() - before - TICK_S)
            self.command_s = max(self.command_s, journal.oldest_command_s())


async def accept(intake: Intake, events: list[Event], blocking_file: int | None) -> None:
    while events:
        event = events.pop()
        print(f"{'accepted' if await intake.event(event) else 'refused'} {event.id} {fingerprint(event)}", flush=True)
        if blocking_file is not None:
            os.fdatasync(blocking_file)


async def main(folder: Path, count: int, at_once: int, is_blocking: bool) -> None:
    now = Clock().now()
    events = [an_event("test", priority, now, 2000) for priority in Priority for _ in range(count // len(Priority))]
    blocking_file = os.open(folder, os.O_RDONLY) if is_blocking else None
    lag = Lag()
    try:
        async with open_journal(folder, JournalSettings(reserve_mb=0, floor_mb=0)) as journal:
            intake = Intake(journal, EventQueue(QueueSettings()), lambda _: (COUNT,))
            measuring = asyncio.create_task(lag.measure(journal))
            accepting = asyncio.gather(*(accept(intake, events, blocking_file) for _ in range(at_once)))
            either: list[asyncio.Future[Any]] = [accepting, journal.failed]
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            measuring.cancel()
            if journal.failed.done():
                accepting.cancel()
                await journal.failed
            await accepting
    finally:
        print("ended", json.dumps({"loop_s": round(lag.loop_s, 3), "command_s": round(lag.command_s, 3)}), flush=True)


if __name__ == "__main__":
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    folder, count, at_once, *options = sys.argv[1:]
    try:
        asyncio.run(main(Path(folder), int(count), int(at_once), "blocking" in options))
    except JournalError as error:
        sys.exit(str(error))
