"""Reading back what was recorded: events with their analysis and outcome, by filter, or as they arrive."""

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg

from pipeline.sql import statement

PREFETCH = 500
OVERLAP = timedelta(seconds=10)
"""`inserted_at` is when a transaction began: rows of a slow one appear behind the rows of later ones."""

LoggedEvent = dict[str, Any]
"""The columns of `events`; `outcome`, `outcome_reason`, `ended_at`, null while it is open; and `analysis`."""


@dataclass(frozen=True, slots=True)
class EventFilter:
    """Which events; None is any. `limit` takes the newest; `text` may stand in reasons or description."""

    since: datetime | None = None
    until: datetime | None = None
    camera: str | None = None
    kind: str | None = None
    priority: str | None = None
    text: str | None = None
    limit: int | None = None

    def passes(self, event: LoggedEvent) -> bool:
        """For events that were not selected by it: camera, kind, priority and text."""
        description = (event["analysis"] or {}).get("scene_description")
        words = " ".join(filter(None, (event["reason"], event["label"], description, event["outcome_reason"])))
        return (
            self.camera in (None, event["camera"])
            and self.kind in (None, event["kind"])
            and self.priority in (None, event["priority"])
            and (self.text is None or self.text.lower() in words.lower())
        )


async def list_events(connection: asyncpg.Connection, wanted: EventFilter) -> AsyncIterator[LoggedEvent]:
    """Oldest first; a few hundred at a time are in memory, however many there are."""
    arguments = (
        wanted.since,
        wanted.until,
        wanted.camera,
        wanted.kind,
        wanted.priority,
        wanted.text,
        wanted.limit,
    )
    async with connection.transaction(readonly=True):
        await connection.execute("SET LOCAL TimeZone = 'UTC'")
        async for row in connection.cursor(statement("list_events"), *arguments, prefetch=PREFETCH):
            yield json.loads(row["event"])


@dataclass(slots=True)
class Changes:
    """Events as they arrive, and once more when their outcome does."""

    started_at: datetime
    _since: datetime = field(init=False)
    _seen: dict[tuple[UUID, bool], datetime] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._since = self.started_at + OVERLAP

    def know(self, event: LoggedEvent) -> None:
        """It has been shown: only its outcome, if it has none yet, would be news."""
        self._seen[_state(event)] = self.started_at

    async def fetch(self, connection: asyncpg.Connection) -> list[LoggedEvent]:
        """What came since the last call."""
        async with connection.transaction(readonly=True):
            await connection.execute("SET LOCAL TimeZone = 'UTC'")
            rows = await connection.fetch(statement("changed_events"), self._since - OVERLAP)
        news = [event for row in rows if self._is_news(event := json.loads(row["event"]), row["changed_at"])]
        self._seen = {state: at for state, at in self._seen.items() if at >= self._since - OVERLAP}
        return news

    def _is_news(self, event: LoggedEvent, changed_at: datetime) -> bool:
        is_news = _state(event) not in self._seen
        self._seen[_state(event)] = changed_at
        self._since = max(self._since, changed_at)
        return is_news


def _state(event: LoggedEvent) -> tuple[UUID, bool]:
    return UUID(event["event_id"]), event["outcome"] is not None


async def database_time(connection: asyncpg.Connection) -> datetime:
    now: datetime = await connection.fetchval("SELECT now()")
    return now
