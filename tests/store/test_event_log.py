from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from pipeline.clock import Moment
from pipeline.event_log import Changes, EventFilter, database_time, list_events
from pipeline.events import EventKind, Priority
from pipeline.rows import event_row, to_json
from tests.pipeline.makers import an_event
from tests.store.outbox import MemoryOutbox, events, whole_event
from tests.store.sending import uploading

NOW = datetime.now(UTC)
HOUR = timedelta(hours=1)


@pytest.fixture
async def three(database: str) -> None:
    """A gate two days ago, a crowd in the yard two hours ago, a cat in the yard just now."""
    await record(
        database,
        *whole_event(camera="yard", captured_at=NOW, reason="100% a Cat"),
        *whole_event(camera="gate", captured_at=NOW - 48 * HOUR, priority=Priority.LOW),
        *whole_event(camera="crowd", captured_at=NOW - 2 * HOUR, kind=EventKind.CROWD_GATHERING),
    )


async def record(database: str, *rows: tuple[str, str]) -> None:
    outbox = MemoryOutbox()
    outbox.put(*rows)
    async with uploading(database, outbox):
        await outbox.wait_empty()


@pytest.mark.usefixtures("three")
@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ({}, ["gate", "crowd", "yard"]),
        ({"camera": "gate"}, ["gate"]),
        ({"kind": "crowd_gathering"}, ["crowd"]),
        ({"priority": "low"}, ["gate"]),
        ({"text": "100% a cat"}, ["yard"]),
        ({"text": "%"}, ["gate", "crowd", "yard"]),
        ({"text": "dog"}, []),
        ({"since": NOW - HOUR}, ["yard"]),
        ({"since": NOW - 3 * HOUR, "until": NOW - HOUR}, ["crowd"]),
        ({"limit": 2}, ["crowd", "yard"]),
    ],
)
async def test_filters(connection: asyncpg.Connection, wanted: dict[str, Any], expected: list[str]) -> None:
    found = [event async for event in list_events(connection, EventFilter(**wanted))]
    assert [event["camera"] for event in found] == expected
    if not wanted.keys() & {"since", "until", "limit"}:
        everything = [event async for event in list_events(connection, EventFilter())]
        assert [event for event in everything if EventFilter(**wanted).passes(event)] == found


async def test_changes_tell_each_event_once_open_and_once_ended(database: str, connection: asyncpg.Connection) -> None:
    await record(database, *events(2, camera="before"))
    changes = Changes(await database_time(connection))
    assert await changes.fetch(connection) == []
    slow, quick = whole_event(camera="slow"), whole_event(camera="quick")
    await record(database, slow[0], *quick)
    assert sorted((event["camera"], event["outcome"]) for event in await changes.fetch(connection)) == [
        ("quick", "done"),
        ("slow", None),
    ]
    assert await changes.fetch(connection) == []
    await record(database, *slow[1:])
    assert [(event["camera"], event["outcome"]) for event in await changes.fetch(connection)] == [("slow", "done")]
    assert await changes.fetch(connection) == []


async def test_a_transaction_that_took_its_time_is_not_missed(database: str, connection: asyncpg.Connection) -> None:
    changes = Changes(await database_time(connection))
    slow = await asyncpg.connect(database)
    transaction = slow.transaction()
    await transaction.start()
    await slow.execute("SELECT now()")
    await record(database, *events(1, camera="quick"))
    assert [event["camera"] for event in await changes.fetch(connection)] == ["quick"]
    await slow.execute(
        "INSERT INTO events"
        " (event_id, site, camera, kind, priority, reason, detections, captured_at, detected_at, accepted_at)"
        " VALUES (gen_random_uuid(), 'test', 'slow', 'object_appeared', 'low', '', '[]', now(), now(), now())"
    )
    await transaction.commit()
    await slow.close()
    assert [event["camera"] for event in await changes.fetch(connection)] == ["slow"]


CORRECTED_TIMES = """
SELECT e.event_id, e.camera, e.kind,
       e.captured_at + (s.booted_at - (e.accepted_at - e.boot_s * interval '1 s')) AS captured_at
FROM events e
CROSS JOIN LATERAL (
    SELECT accepted_at - boot_s * interval '1 s' AS booted_at
    FROM events WHERE site = e.site AND boot_id = e.boot_id AND clock_synced
    ORDER BY abs(boot_s - e.boot_s) LIMIT 1
) s
WHERE NOT e.clock_synced
ORDER BY captured_at
"""
"""As README has it."""


async def test_times_from_before_the_clock_was_set_are_put_right_by_a_later_row_of_the_same_boot(
    database: str, connection: asyncpg.Connection
) -> None:
    """Case 47: a box without a battery for its clock boots in 1970."""
    set_at = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)

    def accepted(camera: str, at: datetime, synced: bool | None, boot_id: str, boot_s: float) -> tuple[str, str]:
        event = an_event(camera=camera, captured_at=at - timedelta(seconds=2), detected_at=at)
        return "events", to_json(event_row(event, Moment(at, synced, boot_id, boot_s)))

    early = datetime(1970, 1, 1, 0, 0, 40, tzinfo=UTC)
    await record(
        database,
        accepted("early", early, False, "this boot", 40.0),
        accepted("set", set_at, True, "this boot", 100.0),
        accepted("drifted", set_at + timedelta(days=9, seconds=3), True, "this boot", 100.0 + 9 * 86400),
        accepted("another boot", early, False, "another boot", 40.0),
        accepted("nobody knows", early, None, "this boot", 40.0),
    )
    [row] = await connection.fetch(CORRECTED_TIMES)
    assert (row["camera"], row["captured_at"]) == ("early", set_at - timedelta(seconds=62))


@pytest.mark.usefixtures("three")
async def test_the_views_answer_what_people_ask(database: str, connection: asyncpg.Connection) -> None:
    await record(database, *events(1, camera="open"))
    assert [row["camera"] for row in await connection.fetch("SELECT * FROM open_events")] == ["open"]
    counts = await connection.fetch(
        "SELECT camera, events, answered, open, most_people FROM hourly_counts ORDER BY camera"
    )
    assert [tuple(row) for row in counts if row["camera"] in ("gate", "open")] == [
        ("gate", 1, 1, 0, 3),
        ("open", 1, 0, 1, None),
    ]
    [health] = await connection.fetch("SELECT * FROM provider_health")
    assert (health["provider"], health["answers"], health["degraded"], float(health["p50_ms"])) == (
        "fake",
        3,
        0,
        12.5,
    )
