"""The oracle: what a box said that it had accepted, against what stands in Postgres at the end.

A box prints `trying ID SHA` before it hands an event to the journal, and `accepted ID SHA` once the journal's commit
has returned. So an event may be in the database although its box died before it could say so, but none that was
never tried, and none that was accepted may be missing.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg

from pipeline.events import Event
from pipeline.questions import KINDS_WITH_PICTURE
from providers.base import Detection

_EVENT_ID = re.compile(r'"event_id":"([0-9a-f-]{36})"')

SHOWN = 8
"""Ids of each fault that a report names; the rest is counted."""

COLUMNS = (
    "event_id", "site", "camera", "kind", "priority", "reason", "label", "track_id", "related_id", "detections",
    "captured_at", "detected_at",
)  # fmt: skip
"""What an event is; what the journal and the database add of their own is not part of its identity."""


class OracleError(AssertionError):
    """The promise was broken. `faults` says how, and by which ids."""

    def __init__(self, faults: Mapping[str, list[str]], seed: object) -> None:
        self.faults = dict(faults)
        told = "\n".join(f"  {len(ids)} {fault}: {_some(ids)}" for fault, ids in faults.items())
        super().__init__(f"the oracle found (seed {seed}):\n{told}")


@dataclass(slots=True)
class Evidence:
    """What boxes have said."""

    tried: dict[str, str] = field(default_factory=dict)
    accepted: set[str] = field(default_factory=set)
    poison: set[str] = field(default_factory=set)
    """Of those, the ids of which the database can't take the event's own row."""

    @classmethod
    def of(cls, files: Iterable[Path]) -> "Evidence":
        """Of all that was printed into these files. A line that a kill cut short was not said."""
        evidence = cls()
        for file in files:
            for line in file.read_text().split("\n")[:-1]:
                evidence._hear(line)
        return evidence

    def _hear(self, line: str) -> None:
        match line.split():
            case ["trying", event_id, sha]:
                assert self.tried.setdefault(event_id, sha) == sha, f"{event_id} was minted twice, differently"
            case ["accepted", event_id, sha]:
                assert self.tried.get(event_id) == sha, f"{event_id} was accepted and never tried"
                self.accepted.add(event_id)
            case ["poison", event_id]:
                self.poison.add(event_id)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was compared, when nothing was wrong."""

    accepted: int
    unsaid: int
    """Durable, though their box died before it could say so."""
    outcomes: Counter[str]


async def check(
    dsn: str, files: Iterable[Path], *, seed: object = None, fresh: Iterable[str] = (), dead_letters: int = 0
) -> Verdict:
    """Compare. `fresh` are ids that came after the faults, at least one; so many rows must be dead letters beside
    those that were minted as poison.

    Raises OracleError.
    """
    evidence = Evidence.of(files)
    connection = await asyncpg.connect(dsn)
    try:
        database = await _read(connection, evidence.poison)
    finally:
        await connection.close()
    faults = {
        **_lost(evidence, database, set(fresh)),
        **_invented(evidence, database),
        **_doubled(database),
        **_unanswered(database),
    }
    if len(database.letters) != dead_letters:
        faults[f"dead letters, where {dead_letters} were due"] = database.letters or ["none"]
    if found := {fault: ids for fault, ids in faults.items() if ids}:
        raise OracleError(found, seed)
    unsaid = len(set(database.events) - evidence.accepted)
    return Verdict(len(evidence.accepted), unsaid, Counter(database.outcome.values()))


@dataclass(slots=True)
class _Database:
    events: dict[str, str] = field(default_factory=dict)
    """Id and fingerprint."""
    asked: set[str] = field(default_factory=set)
    """Of those, the ids of a kind that is asked about."""
    outcome: dict[str, str] = field(default_factory=dict)
    analyses: dict[str, str] = field(default_factory=dict)
    """Id and what was said."""
    poison: set[str] = field(default_factory=set)
    """Ids whose own row is a dead letter, and was meant to be."""
    letters: list[str] = field(default_factory=list)
    """About all others."""
    doubled: dict[str, list[str]] = field(default_factory=dict)


async def _read(connection: asyncpg.Connection, poison: set[str]) -> _Database:
    """One look at all tables, as of one moment."""
    database = _Database()
    async with connection.transaction(isolation="repeatable_read"):
        async for row in connection.cursor(f"SELECT {', '.join(COLUMNS)} FROM events"):
            database.events[str(row["event_id"])] = fingerprint_of_row(row)
            if row["kind"] in KINDS_WITH_PICTURE:
                database.asked.add(str(row["event_id"]))
        async for row in connection.cursor("SELECT event_id, outcome FROM outcomes"):
            database.outcome[str(row["event_id"])] = row["outcome"]
        async for row in connection.cursor("SELECT event_id, scene_description FROM analyses"):
            database.analyses[str(row["event_id"])] = row["scene_description"]
        async for row in connection.cursor("SELECT table_name, reason, payload FROM dead_letters"):
            about = _EVENT_ID.search(row["payload"])
            if row["table_name"] == "events" and about and about[1] in poison - database.poison:
                database.poison.add(about[1])
            else:
                database.letters.append(f"{row['table_name']}: {row['reason']}: {row['payload'][:200]}")
        for table in ("events", "outcomes", "analyses"):  # the key says so already; a test may have taken it away
            query = f"SELECT event_id::text FROM {table} GROUP BY event_id HAVING count(*) > 1"
            database.doubled[table] = [row["event_id"] for row in await connection.fetch(query)]
    return database


def _lost(evidence: Evidence, database: _Database, fresh: set[str]) -> dict[str, list[str]]:
    return {
        "accepted and not there": sorted(evidence.accepted - set(database.events) - database.poison),
        "without an outcome": sorted((evidence.accepted | set(database.events)) - set(database.outcome)),
        "fresh ones after the faults that did not pass": sorted(fresh - set(database.outcome)),
        "with another payload than was minted": sorted(
            event_id
            for event_id, fingerprint in database.events.items()
            if evidence.tried.get(event_id, fingerprint) != fingerprint
        ),
    }


def _invented(evidence: Evidence, database: _Database) -> dict[str, list[str]]:
    return {
        f"{table} of events that no one minted": sorted(ids - set(evidence.tried))
        for table, ids in (
            ("events", set(database.events)),
            ("outcomes", set(database.outcome)),
            ("analyses", set(database.analyses)),
        )
    }


def _doubled(database: _Database) -> dict[str, list[str]]:
    return {f"{table} that are there twice": ids for table, ids in database.doubled.items()}


def _unanswered(database: _Database) -> dict[str, list[str]]:
    """An answer for each event that says that it has one, and for no other."""
    analysed = set(database.analyses) - database.poison
    answered = {event_id for event_id, outcome in database.outcome.items() if outcome in ("done", "degraded")}
    due = answered & database.asked
    return {
        "answered, without an analysis": sorted(due - analysed),
        "unanswered, with an analysis": sorted(analysed - due),
        "with the answer to another event": sorted(
            event_id for event_id, said in database.analyses.items() if said != f"about {event_id}"
        ),
    }


def fingerprint(event: Event) -> str:
    """The hash of what an event is, taken from the event itself."""
    return _sha256(
        {
            "event_id": str(event.id),
            "site": event.site,
            "camera": event.camera,
            "kind": event.kind.value,
            "priority": event.priority.name.lower(),
            "reason": event.reason,
            "label": event.label or None,
            "track_id": event.track_id,
            "related_id": str(event.related_id) if event.related_id else None,
            "detections": [_columns_of(detection) for detection in event.detections],
            "captured_at": _moment(event.captured_at),
            "detected_at": _moment(event.detected_at),
        }
    )


def fingerprint_of_row(row: Mapping[str, Any]) -> str:
    """The same, taken from what the database gives back."""
    return _sha256({column: _plain(column, row[column]) for column in COLUMNS})


def _columns_of(detection: Detection) -> dict[str, Any]:
    box = detection.box
    sides = {"x_min": box.x_min, "y_min": box.y_min, "x_max": box.x_max, "y_max": box.y_max}
    return {"label": detection.label, "confidence": detection.confidence, "track_id": detection.track_id, **sides}


def _plain(column: str, value: Any) -> Any:
    match value:
        case UUID():
            return str(value)
        case datetime():
            return _moment(value)
        case str() if column == "detections":
            return json.loads(value)
        case _:
            return value


def _moment(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="microseconds")


def _sha256(columns: dict[str, Any]) -> str:
    text = json.dumps(columns, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _some(ids: list[str]) -> str:
    return ", ".join(ids[:SHOWN]) + (f" and {len(ids) - SHOWN} more" if len(ids) > SHOWN else "")
