"""One row that the database can't take, on its way through the real journal: it goes aside alone."""

import asyncio
import random
import shutil
from datetime import UTC
from pathlib import Path
from typing import Any

import apsw
import asyncpg
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.events import Event, EventOutcome
from pipeline.journal import JournalSettings, open_journal
from pipeline.store import open_store
from pipeline.uploader import Uploader
from providers.base import Box, Detection
from tests.faults.lives import Lives
from tests.pipeline.makers import an_event
from tests.store.sending import QUICK, settings_for
from tests.store.test_poison import POISON

text = st.text(st.characters(codec=None), max_size=30) | st.sampled_from(
    ["\x00", "\ud800\x00", "x" * 70_000, "🦀" * 9_000]
)
detections = st.builds(
    Detection, text, st.floats(), st.builds(Box, *[st.floats()] * 4), st.none() | st.integers(-(2**80), 2**80)
)
track_ids = st.none() | st.integers(-(2**63), 2**63 - 1) | st.sampled_from([2**63, -(2**63) - 1, 10**100])
moments = st.datetimes(timezones=st.just(UTC))
events = st.fixed_dictionaries(
    {
        "site": text, "camera": text, "reason": text, "label": text,
        "track_id": track_ids, "detections": st.lists(detections, max_size=3).map(tuple),
        "captured_at": moments, "detected_at": moments,
    }
)  # fmt: skip


def is_poison(event: Event) -> bool:
    """The one thing that an event can hold and the table can't."""
    return event.track_id is not None and not -(2**63) <= event.track_id < 2**63


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(events, min_size=1, max_size=12))
async def test_whatever_an_event_holds_only_what_can_not_be_stored_goes_aside(
    database: str, connection: asyncpg.Connection, tmp_path: Path, contents: list[dict[str, Any]]
) -> None:
    """Case 10."""
    minted = [an_event(**content) for content in contents]
    async with (
        open_journal(tmp_path / "state", JournalSettings()) as journal,
        open_store(settings_for(database)) as store,
    ):
        await asyncio.gather(*(journal.accept(event, EventOutcome.DONE) for event in minted))
        assert await Uploader(journal, store, pauses=QUICK).flush()
        counts = await journal.counts()
    ids = [event.id for event in minted]
    there = {
        row["event_id"] for row in await connection.fetch("SELECT event_id FROM events WHERE event_id = ANY($1)", ids)
    }
    assert there == {event.id for event in minted if not is_poison(event)}
    assert await connection.fetchval("SELECT count(*) FROM outcomes WHERE event_id = ANY($1)", ids) == len(ids)
    assert counts["dead_letters"] == sum(map(is_poison, minted))
    shutil.rmtree(tmp_path / "state")


def is_text(body: str) -> bool:
    """What is none, not even SQLite takes."""
    return body.encode("utf-8", "ignore").decode() == body


async def test_poison_from_an_older_version_holds_up_no_one(box: Lives) -> None:
    """Case 10. Rows that this version would not write, between those of a box at work."""
    await box.live(count=1)
    poison = [("events", body) for body in POISON.values() if is_text(body)]
    random.Random(box.settings.seed).shuffle(poison)
    for turn in range(4):
        journal = apsw.Connection(str(Path(box.settings.state_dir) / "journal.db"))
        with journal:
            journal.executemany("INSERT INTO outbox (table_name, body) VALUES (?,?)", poison[turn::4])
        journal.close()
        await box.live(count=40)
    await box.settle(dead_letters=len(poison))
