"""A damaged journal is set aside, and a sound one with all that could be read of it takes its place.

The new file has a name of its own until it is complete. What follows is renames, each of which may be the last thing
that happens before the power fails: the next start goes on where this one ended.
"""

import os
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import apsw
import structlog

from pipeline.clock import Clock
from pipeline.journal_copy import Copied, JournalCopy
from pipeline.journal_errors import JournalDamagedError, JournalError
from pipeline.journal_image import open_image
from pipeline.journal_log import PAGE_BYTES
from pipeline.journal_schema import create, mark_of
from pipeline.rows import alarm_row, to_json

ALARM = "journal_damaged"
DAMAGED_MAX = 3
"""Damaged journals that are kept for whoever wants to know more; the older ones go."""

log = structlog.get_logger()


def salvage(journal: Path, damage: str, clock: Clock, site: str) -> None:
    """Raises JournalError where there is no room for a new journal; then everything is as it was."""
    unfinished = _named(journal, "salvaging")
    _remove(unfinished)
    try:
        copied = _copy(journal, unfinished, damage, clock, site)
        _sync(unfinished)
        os.replace(unfinished, _named(journal, "salvaged"))
        aside = _take_the_place(journal)
    except (apsw.Error, OSError) as error:
        _remove(unfinished)
        raise JournalError(f"{damage}; what can be read of it found no other place: {error}") from error
    log.error("journal.damaged", reason=damage, salvaged=copied.sentence(), kept_as=aside.name)


def finish_salvage(journal: Path) -> None:
    """After a start that was cut short in the middle of it. Raises OSError."""
    if _named(journal, "salvaged").exists():
        _take_the_place(journal)
    _remove(_named(journal, "salvaging"))


def forget_old_damage(journal: Path, most_bytes: int) -> None:
    """Keep the newest damaged journals, up to DAMAGED_MAX, and together no more than most_bytes; the newest always."""
    total_bytes = 0
    for number, aside in enumerate(sorted(journal.parent.glob(f"{journal.name}.damaged-*Z"), reverse=True)):
        total_bytes += aside.stat().st_size
        if number >= DAMAGED_MAX or (number and total_bytes > most_bytes):
            _remove(aside)
            _remove(_log_of(aside))


def _copy(journal: Path, unfinished: Path, damage: str, clock: Clock, site: str) -> Copied:
    with closing(apsw.Connection(str(unfinished))) as new:
        os.chmod(unfinished, 0o600)
        new.pragma("page_size", PAGE_BYTES)
        new.pragma("temp_store", 2)
        create(new)
        with new:
            copied = _all_that_reads(journal, new, clock)
            alarm = to_json(alarm_row(site, ALARM, f"{damage}. {copied.sentence()}", clock.now()))
            new.execute("INSERT INTO outbox (table_name, body) VALUES ('alarms', ?)", (alarm,))
    return copied


def _all_that_reads(journal: Path, new: apsw.Connection, clock: Clock) -> Copied:
    try:
        with open_image(journal) as damaged:
            return JournalCopy(damaged, new, clock).all_tables()
    except JournalDamagedError:  # no page of it looks like one of a journal: there is nothing to copy
        return Copied()


def _take_the_place(journal: Path) -> Path:
    """Of the damaged files, which get another name; that of the new one's time, so that a second try finds it too."""
    salvaged = _named(journal, "salvaged")
    at = datetime.fromtimestamp(salvaged.stat().st_mtime, UTC)
    aside = _named(journal, f"damaged-{at:%Y%m%dT%H%M%S.%fZ}")
    for damaged, kept_as in ((journal, aside), (_log_of(journal), _log_of(aside))):
        if damaged.exists():
            os.replace(damaged, kept_as)
    _sync(journal.parent)  # before there can be a new journal: it must never meet the old one's log
    mark_of(journal).unlink(missing_ok=True)
    os.replace(salvaged, journal)
    _sync(journal.parent)
    return aside


def _named(journal: Path, what: str) -> Path:
    return journal.with_name(f"{journal.name}.{what}")


def _log_of(journal: Path) -> Path:
    return journal.with_name(f"{journal.name}-wal")


def _remove(file: Path) -> None:
    """With the journal that SQLite may have kept for it while it was written."""
    file.unlink(missing_ok=True)
    file.with_name(f"{file.name}-journal").unlink(missing_ok=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
