"""`lva events`, `lva tail` and `lva db`, as a person or a script runs them."""

import asyncio
import json
import signal
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click
import pytest

from daemon.commands.when import Span, When
from daemon.control import control_server
from pipeline.events import EventOutcome
from pipeline.journal import JournalSettings, open_journal
from tests.pipeline.makers import an_event
from tests.store.outbox import MemoryOutbox, events, whole_event
from tests.store.sending import uploading

NOW = datetime.now(UTC)


@pytest.fixture
def config(database: str, tmp_path: Path) -> Path:
    file = tmp_path / "config.toml"
    file.write_text(f'[database]\nurl = "{database}"\n')
    return file


@pytest.fixture
def embedded_config() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="lva-") as directory:
        file = Path(directory) / "config.toml"
        file.write_text('site = "box"\n')
        yield file


async def start(config: Path, *arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "daemon", *arguments, "--config", str(config),
        cwd=config.parent, stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip


async def lva(config: Path, *arguments: str, status: int = 0) -> tuple[str, str]:
    """What it said on stdout and on stderr."""
    process = await start(config, *arguments)
    out, err = await process.communicate()
    assert process.returncode == status, err.decode()
    return out.decode(), err.decode()


async def listed(config: Path, *arguments: str) -> list[dict[str, Any]]:
    out, _ = await lva(config, "events", "--json", *arguments)
    return [json.loads(line) for line in out.splitlines()]


async def record(database: str, *rows: tuple[str, str]) -> None:
    outbox = MemoryOutbox()
    outbox.put(*rows)
    async with uploading(database, outbox):
        await outbox.wait_empty()


async def test_json_has_the_event_its_analysis_and_its_outcome(database: str, config: Path) -> None:
    await record(database, *whole_event(camera="gate"), *events(1, camera="yard", captured_at=NOW.isoformat()))
    done, open_one = await listed(config)
    assert (done["camera"], done["outcome"], done["priority"]) == ("gate", "done", "medium")
    assert done["detections"][0]["label"] == "person"
    assert done["analysis"]["people_count"] == 3
    assert done["analysis"]["provider"] == "fake"
    assert (open_one["camera"], open_one["analysis"], open_one["outcome"]) == ("yard", None, None)
    for key in ("captured_at", "detected_at", "accepted_at", "inserted_at"):
        assert datetime.fromisoformat(done[key]).utcoffset() == timedelta(0)


async def test_filters_narrow_it(database: str, config: Path) -> None:
    await record(
        database,
        *whole_event(camera="gate", captured_at=NOW - timedelta(hours=2)),
        *whole_event(camera="yard", captured_at=NOW - timedelta(hours=2)),
        *whole_event(camera="yard", captured_at=NOW - timedelta(minutes=2), reason="100% a Cat"),
    )
    found = await listed(
        config,
        "--camera=yard",
        "--kind=object_appeared",
        "--priority=medium",
        "--text=a cat",
        "--since=1h",
        "--limit=5",
    )
    assert [event["reason"] for event in found] == ["100% a Cat"]


async def test_the_table_is_for_people_and_fits_a_hundred_columns(database: str, config: Path) -> None:
    evil = "\x1b[31mred \x1b]0;title\x07 [bold]markup[/bold] \u202e turned " + "long words " * 20
    await record(database, *events(29), *whole_event(EventOutcome.FAILED, reason=evil, captured_at=NOW))
    out, _ = await lva(config, "events")
    lines = out.splitlines()
    assert lines[0].split() == ["time", "camera", "kind", "priority", "outcome", "what"]
    assert max(map(len, lines)) <= 100
    assert sum("object_appeared" in line for line in lines) == 20
    assert "\x1b" not in out
    assert "\u202e" not in out
    assert "[bold]markup[/bold]" in " ".join(out.split())


async def test_json_obeys_nothing_either(database: str, config: Path) -> None:
    await record(database, *whole_event(reason="\x9b31m \u202e \x7f"))
    out, _ = await lva(config, "events", "--json")
    assert not set("\x9b\u202e\x7f") & set(out)
    assert json.loads(out)["reason"] == "\x9b31m \u202e \x7f"


async def test_where_nothing_was_recorded_it_says_so_and_makes_nothing(embedded_config: Path) -> None:
    for arguments in (("events", "--json"), ("db", "status")):
        assert await lva(embedded_config, *arguments) == ("", "no events yet\n")
    assert [path.name for path in embedded_config.parent.iterdir()] == ["config.toml"]


async def test_without_tables_there_are_no_events(empty_database: str, tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text(f'[database]\nurl = "{empty_database}"\n')
    assert await lva(config, "events") == ("", "no events yet\n")
    assert "lva db migrate" in (await lva(config, "db", "status"))[0]
    assert (await lva(config, "db", "migrate"))[0].startswith("applied 0001")


async def test_a_database_that_is_away_is_one_line_and_a_failure(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text('[database]\nurl = "postgresql://lva:hunter2@127.0.0.1:1/lva"\n')
    out, err = await lva(config, "events", status=1)
    assert (out, err.count("\n")) == ("", 1)
    assert "hunter2" not in err


async def test_the_embedded_database_is_made_by_migrate_and_shown_by_status(embedded_config: Path) -> None:
    assert (await lva(embedded_config, "db", "migrate"))[0].startswith("applied 0001")
    out, _ = await lva(embedded_config, "db", "status")
    assert "embedded" in out
    assert "migrations  2 of 2" in out
    assert "events               0 rows" in out
    assert (await lva(embedded_config, "db", "migrate"))[0] == "up to date\n"


@pytest.fixture
async def refused(config: Path) -> list[str]:
    """Three rows in the box's own journal that the database refused; their bodies."""
    async with open_journal(config.parent / "state", JournalSettings()) as journal:
        for _ in range(3):
            await journal.accept(an_event(reason="evil \x1b[31m words"), EventOutcome.DONE, "")
        rows = [row for row in await journal.outbox(9, 10**6) if row.table == "events"]
        for row in rows:
            await journal.dead_letter(row, "22P05", "unsupported \x1b[31m escape")
    return [row.body for row in rows]


async def test_dead_letters_are_listed_whole_and_sent_once_more(config: Path, refused: list[str]) -> None:
    out, _ = await lva(config, "db", "dead-letters")
    assert [line.split()[0] for line in out.splitlines()] == ["1", "2", "3"]
    assert "events       22P05  unsupported \\u001b[31m escape" in out
    letters = [json.loads(line) for line in (await lva(config, "db", "dead-letters", "--json"))[0].splitlines()]
    assert [letter["body"] for letter in letters] == refused
    assert datetime.fromisoformat(letters[0]["failed_at"]).utcoffset() == timedelta(0)
    assert (await lva(config, "db", "dead-letters", "retry", "2"))[0] == "1 rows are sent again\n"
    assert (await lva(config, "db", "dead-letters", "retry", "--all"))[0] == "2 rows are sent again\n"
    assert await lva(config, "db", "dead-letters") == ("", "no dead letters\n")
    async with open_journal(config.parent / "state", JournalSettings()) as journal:
        assert [row.body for row in await journal.outbox(99, 10**6)][-3:] == [refused[1], refused[0], refused[2]]


async def test_the_running_daemon_is_asked_as_only_it_may_open_its_journal(config: Path, refused: list[str]) -> None:
    state = config.parent / "state"
    async with open_journal(state, JournalSettings()) as journal, control_server(state, journal):
        assert len((await lva(config, "db", "dead-letters"))[0].splitlines()) == 3
        assert (
            "journal     0 events waiting, 0 being asked about, 6 rows to send, 3 dead letters"
            in (await lva(config, "db", "status"))[0]
        )
        assert (await lva(config, "db", "dead-letters", "retry", "1"))[0] == "1 rows are sent again\n"
        assert len(await journal.dead_letters(9)) == 2


async def test_while_a_daemon_starts_its_journal_is_left_alone(config: Path, refused: list[str]) -> None:
    async with open_journal(config.parent / "state", JournalSettings()):
        _, err = await lva(config, "db", "dead-letters", status=1)
        assert "another lva is running" in err
        assert err.count("\n") == 1


async def test_dead_letters_that_there_are_none_of(config: Path, refused: list[str]) -> None:
    assert "1 of 2" in (await lva(config, "db", "dead-letters", "retry", "2", "77", status=1))[1]
    assert "give the IDs" in (await lva(config, "db", "dead-letters", "retry", status=2))[1]
    assert "give the IDs" in (await lva(config, "db", "dead-letters", "retry", "1", "--all", status=2))[1]


async def test_without_a_journal_there_are_no_dead_letters_and_none_is_made(config: Path) -> None:
    assert await lva(config, "db", "dead-letters") == ("", "no dead letters\n")
    assert (await lva(config, "db", "dead-letters", "retry", "--all"))[0] == "0 rows are sent again\n"
    assert "journal" not in (await lva(config, "db", "status"))[0]
    assert json.loads((await lva(config, "db", "status", "--json"))[0])["journal"] is None
    assert not (config.parent / "state").exists()


async def test_dead_letters_need_none_of_the_secrets(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text('state_dir = "s"\n[database]\nurl = "${credential:not_there}"\n[[nonsense]]\n')
    assert await lva(config, "db", "dead-letters") == ("", "no dead letters\n")


async def test_the_configuration_may_stand_before_retry(config: Path, refused: list[str]) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "daemon", "db", "dead-letters", "--config", str(config), "retry", "--all",
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert (await process.communicate())[0] == b"3 rows are sent again\n"


async def test_prune_says_what_it_would_do_and_does_it(database: str, config: Path) -> None:
    await record(database, *whole_event(captured_at=NOW - timedelta(days=40)), *whole_event(captured_at=NOW))
    assert "would delete 1 events" in (await lva(config, "db", "prune", "--older-than", "30d", "--dry-run"))[0]
    assert "deleted 1 events" in (await lva(config, "db", "prune", "--older-than", "30d"))[0]
    assert len(await listed(config)) == 1


@pytest.mark.parametrize("span", ["0d", "0", "-1d", "forever", "1.5h", ""])
def test_to_keep_nothing_or_nonsense_is_refused(span: str) -> None:
    with pytest.raises(click.UsageError):
        Span().convert(span, None, None)


def test_a_time_is_a_span_ago_or_a_moment() -> None:
    assert abs(When().convert("2h", None, None) - (datetime.now(UTC) - timedelta(hours=2))) < timedelta(seconds=5)
    assert When().convert("2026-11-20T14:30+01:00", None, None) == datetime(2026, 11, 20, 13, 30, tzinfo=UTC)
    with pytest.raises(click.UsageError):
        When().convert("yesterday", None, None)


async def test_tail_follows_and_ctrl_c_ends_it_well(database: str, config: Path) -> None:
    await record(database, *events(3, camera="old"))
    process = await start(config, "tail", "--json", "--lines", "2")
    assert process.stdout
    first = [json.loads(await process.stdout.readline()) for _ in range(2)]
    new = whole_event(camera="new")
    await record(database, new[0])
    opened = json.loads(await process.stdout.readline())
    await record(database, *new[1:])
    ended = json.loads(await process.stdout.readline())
    assert [event["camera"] for event in first] == ["old", "old"]
    assert opened["camera"] == "new"
    assert opened["event_id"] == ended["event_id"]
    assert (opened["outcome"], ended["outcome"], ended["analysis"]["people_count"]) == (None, "done", 3)
    process.send_signal(signal.SIGINT)
    out, err = await process.communicate()
    assert (out, err, process.returncode) == (b"", b"", 0)


async def test_tail_waits_for_what_is_not_there_yet(empty_database: str, tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text(f'[database]\nurl = "{empty_database}"\n')
    process = await start(config, "tail", "--camera", "yard")
    assert process.stdout
    assert process.stderr
    assert await process.stderr.readline() == b"no events yet; waiting\n"
    await record(empty_database, *whole_event(camera="gate"), *whole_event(camera="yard"))
    line = (await process.stdout.readline()).decode().split()
    assert line[2:6] == ["yard", "object_appeared", "medium", "done"]
    process.terminate()
    await process.communicate()
    assert process.returncode == 0
