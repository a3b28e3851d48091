"""One row that the database can't take never holds up another, and is the only one to go aside."""

import json
import random
from typing import Any

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.rows import to_json
from tests.store.outbox import MemoryOutbox, event_body, events
from tests.store.sending import uploading

POISON = {
    "NaN": event_body().replace('"track_id": 7', '"track_id": NaN'),
    "Infinity in detections": event_body(detections=[{"confidence": float("inf")}]),
    "NUL in text": event_body(reason="a\x00b"),
    "NUL in jsonb": event_body(detections=[{"label": "a\x00b"}]),
    "lone surrogate, escaped": event_body(reason="a\ud800b"),
    "lone surrogate, escaped, in jsonb": event_body(detections=[{"label": "\udfff"}]),
    "lone surrogate, raw": event_body(reason="here").replace("here", "\ud800"),
    "NUL, raw": event_body(reason="here").replace("here", "\x00"),
    "no uuid": event_body(event_id="not-a-uuid"),
    "integer too large": event_body(track_id=2**63),
    "text for a number": event_body(track_id="seven"),
    "no time": event_body(captured_at="yesterday at noon o'clock"),
    "time out of range": event_body(captured_at="294277-01-01T00:00:00Z"),
    "unknown priority": event_body(priority="urgent"),
    "no camera": event_body(camera=None),
    "key missing": json.dumps({"event_id": "0199a0a0-0000-7000-8000-000000000000"}),
    "not JSON": "}{",
    "an array": "[]",
    "a number": "7",
    "deeply nested": event_body(detections="here").replace('"here"', "[" * 20_000 + "]" * 20_000),
}


@pytest.mark.parametrize("name", POISON)
async def test_only_the_poisoned_row_is_put_aside(database: str, connection: asyncpg.Connection, name: str) -> None:
    """Case 10."""
    outbox = MemoryOutbox()
    outbox.put(*events(6), ("events", POISON[name]), *events(5))
    async with uploading(database, outbox):
        await outbox.wait_empty()
    assert [row.body for row, _, _ in outbox.dead] == [POISON[name]]
    assert await connection.fetchval("SELECT count(*) FROM events") == 11
    letter = await connection.fetchrow("SELECT * FROM dead_letters")
    assert letter["table_name"] == "events"
    assert (letter["sqlstate"], letter["reason"]) == outbox.dead[0][1:]
    assert len(letter["sqlstate"]) == 5


async def test_many_poisoned_rows_in_one_batch(database: str, connection: asyncpg.Connection) -> None:
    """Case 10."""
    outbox = MemoryOutbox()
    rows = [*events(180), *(("events", body) for body in POISON.values())]
    random.Random(4).shuffle(rows)
    outbox.put(*rows)
    async with uploading(database, outbox):
        await outbox.wait_empty()
    assert sorted(row.body for row, _, _ in outbox.dead) == sorted(POISON.values())
    assert await connection.fetchval("SELECT count(*) FROM events") == 180
    assert await connection.fetchval("SELECT count(*) FROM dead_letters") == len(POISON)


async def test_a_letter_about_a_letter_is_not_written(database: str, connection: asyncpg.Connection) -> None:
    outbox = MemoryOutbox()
    outbox.put(*events(1), ("dead_letters", json.dumps({"dead_letter_id": "none"})))
    async with uploading(database, outbox):
        await outbox.wait_empty()
    assert not outbox.dead
    assert await connection.fetchval("SELECT count(*) FROM dead_letters") == 0


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(detections=st.lists(anything, max_size=3), reason=st.text(st.characters(codec=None), max_size=40))
async def test_what_the_box_writes_down_the_database_takes(database: str, detections: Any, reason: str) -> None:
    """Case 10."""
    outbox = MemoryOutbox()
    row = json.loads(event_body()) | {"detections": detections, "reason": reason}
    outbox.put(("events", to_json(row)))
    async with uploading(database, outbox):
        await outbox.wait_empty()
    assert not outbox.dead
