"""What a journal must hold: all that it acknowledged, and of each command that was under way, everything or nothing.

A fact is a key and a value: an open event and its content, its attempts, a row in the outbox, a row among the dead
letters, a recording's event that was told. A command changes some of them, in one commit.
"""

import json
from collections.abc import Awaitable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar
from uuid import UUID

from pipeline.events import Event
from pipeline.journal import Journal
from pipeline.rows import event_from_row

Fact = tuple[str, ...]
Facts = Mapping[Fact, Any]
"""In a change, None is a fact that is gone."""

T = TypeVar("T")

_KEY_OF = {"gaps": "gap_id", "alarms": "message"}
_JOURNALS_OWN = ("ended_at", "failed_at", "raised_at", "dead_letter_id", "alarm_id")
"""Columns that the journal makes up when it carries out a command."""


class InconsistentError(Exception):
    """A journal contradicts itself."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Where a journal differs from its ledger: `lost` is not there, or not as it was; `invented` nobody asked for."""

    lost: frozenset[Fact] = frozenset()
    invented: frozenset[Fact] = frozenset()


@dataclass(frozen=True, slots=True)
class Page:
    """The ledger at one moment."""

    certain: Facts
    under_way: Sequence[Facts]

    def compare(self, found: Facts) -> Verdict:
        expected = dict(self.certain)
        for changes in self.under_way:
            if all(_is_there(fact, value, found) for fact, value in changes.items()):
                _carry_out(changes, expected)
        lost = frozenset(fact for fact, value in expected.items() if not _is_there(fact, value, found))
        return Verdict(lost, frozenset(found.keys() - expected.keys()))


def _is_there(fact: Fact, value: Any, found: Facts) -> bool:
    """As it was; but the journal may know of more attempts: to take an event up again costs one."""
    there = found.get(fact)
    return there == value or (fact[0] == "attempts" and None not in (there, value) and there > value)


class Ledger:
    """Kept by whoever gives the commands. Two that are under way at the same time must not change the same fact.

    `inherited` is what an earlier life promised, until `settle` says what came of it.
    """

    def __init__(self, inherited: Page | None = None) -> None:
        self.certain: dict[Fact, Any] = dict(inherited.certain) if inherited else {}
        self._under_way: list[Facts] = list(inherited.under_way) if inherited else []

    def settle(self, found: Facts) -> None:
        self.certain = dict(found)
        self._under_way = []

    async def asked(self, command: Awaitable[T], changes: Facts) -> T:
        """Wait for the command, which changes this when it is carried out."""
        self._under_way.append(changes)
        result = await command
        _carry_out(changes, self.certain)
        self._under_way.remove(changes)
        return result

    def page(self) -> Page:
        """From any thread. What is acknowledged meanwhile may stand as under way, too."""
        under_way = tuple(self._under_way)
        return Page(dict(self.certain), under_way)


def _carry_out(changes: Facts, facts: dict[Fact, Any]) -> None:
    for fact, value in changes.items():
        if value is None:
            facts.pop(fact, None)
        else:
            facts[fact] = value


def open_event(event: Event) -> tuple[Fact, Any]:
    return ("open", str(event.id)), event


def attempts(event: Event, number: int) -> tuple[Fact, Any]:
    return ("attempts", str(event.id)), number


def event_row(event: Event) -> tuple[Fact, Any]:
    return ("row", "events", str(event.id)), replace(event, jpeg=b"")


def row(table: str, body: str) -> tuple[Fact, Any]:
    """A row on its way to the database."""
    values = json.loads(body)
    return ("row", table, _key_of(table, values)), _content(table, values)


def dead(table: str, body: str) -> tuple[Fact, Any]:
    values = json.loads(body)
    return ("dead", table, _key_of(table, values)), _content(table, values)


def refused(found: Facts) -> Iterator[Fact]:
    """The rows of whose refusal something is there: the row among the dead letters, or the letter about it."""
    for kind, table, key in (fact for fact in found if fact[0] in ("row", "dead")):
        if kind == "dead":
            yield "row", table, key
        elif table == "dead_letters":
            yield "row", *key.split(" ", 1)


def told(event_id: UUID) -> tuple[Fact, Any]:
    return ("told", str(event_id)), True


async def found_in(journal: Journal, recorded: Sequence[Event] = ()) -> Facts:
    """All facts of a journal, as after a start: what was leased is open. For `recorded`, also whether it was told;
    that is asked last, as asking tells them. Raises InconsistentError."""
    waiting = await journal.recover()
    leased = await journal.lease([each.id for each in waiting], suspects=True)
    if [each.event.id for each in leased] != [each.id for each in waiting]:
        raise InconsistentError("not every event that waits can be leased")
    facts = dict(open_event(each.event) for each in leased)
    rows = await journal.outbox(10**9, 10**12)
    facts |= (row(each.table, each.body) for each in rows)
    letters = await journal.dead_letters(10**9)
    facts |= (dead(each.table, each.body) for each in letters)
    if len(facts) != len(leased) + len(rows) + len(letters):
        raise InconsistentError("a row is there twice")
    facts |= (attempts(each.event, each.attempts - 1) for each in leased)
    for event in recorded:
        if not (await journal.accept(event, replayed=True)).new:
            facts |= [told(event.id)]
    return facts


def _key_of(table: str, values: Mapping[str, Any]) -> str:
    if table == "dead_letters":
        of = json.loads(values["payload"])
        return f"{values['table_name']} {_key_of(values['table_name'], of)}"
    return str(values[_KEY_OF.get(table, "event_id")])


def _content(table: str, values: Mapping[str, Any]) -> Any:
    if table == "events":
        return event_from_row(values, b"")
    return tuple((name, str(value)) for name, value in values.items() if name not in _JOURNALS_OWN)
