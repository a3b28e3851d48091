"""An outbox in memory, and rows to put in it, made by the same code as the journal's."""

import asyncio
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from pipeline.clock import Moment
from pipeline.events import EventOutcome
from pipeline.rows import analysis_row, dead_letter_row, event_row, outcome_row, to_json
from pipeline.uploader import OutboxRow
from tests.pipeline.makers import NOW, an_analysis, an_event


class MemoryOutbox:
    """What the journal's outbox does, without a disk."""

    def __init__(self) -> None:
        self.rows: dict[int, OutboxRow] = {}
        self.dead: list[tuple[OutboxRow, str, str]] = []
        self._next = 1
        self._changed = asyncio.Event()

    def put(self, *rows: tuple[str, str]) -> None:
        for table, body in rows:
            self.rows[self._next] = OutboxRow(self._next, table, body)
            self._next += 1
        self._changed.set()

    async def wait_outbox(self) -> None:
        await self._until(lambda: bool(self.rows))

    async def wait_empty(self) -> None:
        await self._until(lambda: not self.rows)

    async def outbox(self, limit_rows: int, limit_bytes: int) -> list[OutboxRow]:
        taken: list[OutboxRow] = []
        size = 0
        for row in list(self.rows.values())[:limit_rows]:
            size += len(row.body)
            if taken and size > limit_bytes:
                break
            taken.append(row)
        return taken

    async def uploaded(self, seqs: Sequence[int]) -> None:
        for seq in seqs:
            del self.rows[seq]
        self._changed.set()

    async def dead_letter(self, row: OutboxRow, sqlstate: str, reason: str) -> None:
        del self.rows[row.seq]
        self.dead.append((row, sqlstate, reason))
        self.put(
            (
                "dead_letters",
                to_json(dead_letter_row(row.table, sqlstate, reason, row.body, datetime.now(UTC))),
            )
        )

    async def _until(self, condition: Any) -> None:
        while not condition():
            self._changed.clear()
            await self._changed.wait()


def event_body(**changes: Any) -> str:
    """The JSON of one row for `events`; `changes` are taken as they are, wrong ones too."""
    return json.dumps(event_row(an_event(), Moment(NOW)) | changes)


def events(number: int, **changes: Any) -> list[tuple[str, str]]:
    return [("events", event_body(**changes)) for _ in range(number)]


def whole_event(outcome: EventOutcome = EventOutcome.DONE, **changes: Any) -> list[tuple[str, str]]:
    """The three rows of an event that was answered."""
    event = an_event(**changes)
    return [
        ("events", to_json(event_row(event, Moment(NOW)))),
        ("analyses", to_json(analysis_row(an_analysis(event.id)))),
        ("outcomes", to_json(outcome_row(event.id, outcome, "", NOW))),
    ]
