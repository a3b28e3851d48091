"""A journal's life from a seed: everything that a daemon asks of it, in a mixture, with a ledger kept beside it."""

import asyncio
from collections.abc import Coroutine
from itertools import count
from random import Random
from typing import Any, TypeVar
from uuid import UUID

from pipeline.clock import Clock
from pipeline.events import Event, EventOutcome, Gap, Priority
from pipeline.journal import Journal
from pipeline.journal_file import Ending
from pipeline.journal_outbox import DeadLetter
from pipeline.rows import alarm_row, analysis_row, dead_letter_row, gap_row, outcome_row, to_json
from pipeline.uploader import OutboxRow
from tests.faults import ledger
from tests.faults.ledger import Fact, Facts, Ledger
from tests.pipeline.makers import NOW, an_analysis, an_event

AT_ONCE_MAX = 8
"""Commands in one commit."""

Command = Coroutine[Any, Any, Any]
T = TypeVar("T")


_boots = count(1)


class SetClock(Clock):
    """Stands still at a known time. Each is of another boot: a power cut ends one."""

    def __init__(self) -> None:
        self.boot_id = f"boot {next(_boots)}"

    def wall(self) -> float:
        return NOW.timestamp()

    def boot(self) -> float:
        return 100.0

    def synced(self) -> bool:
        return True


class Life:
    """Commands in rounds: those of a round are given at once and share a commit, the next round follows their
    acknowledgement. No two of a round are about the same fact."""

    def __init__(self, journal: Journal, random: Random, kept: Ledger, recorded_share: float = 0.2) -> None:
        self._recorded_share = recorded_share
        self._journal = journal
        self._random = random
        self._ledger = kept
        self._waiting: list[Event] = []
        self._leased: list[Event] = []
        self._rows: list[OutboxRow] = []
        self._letters: list[DeadLetter] = []
        self._refused: set[Fact] = set()
        self.recorded: list[Event] = []
        """Events of a recording, told or being told."""
        self.accepted = 0
        """Acknowledged so far."""

    async def resume(self) -> Facts:
        """Take up what an earlier life left, and say what that was. It is leased then, all of it."""
        found = await ledger.found_in(self._journal)
        self._leased = [value for (kind, *_), value in found.items() if kind == "open"]
        self._ledger.settle(found)
        self._ledger.certain |= [ledger.attempts(event, self._attempts(event) + 1) for event in self._leased]
        self._refused = set(ledger.refused(found))
        return found

    async def live(self, rounds: int) -> None:
        for _ in range(rounds):
            self._rows = await self._journal.outbox(self._random.randint(1, 20), 10**6)
            self._letters = await self._journal.dead_letters(3)
            commands = [self._random_command() for _ in range(self._random.randint(1, AT_ONCE_MAX))]
            async with asyncio.TaskGroup() as group:
                for command in commands:
                    group.create_task(command)

    def _random_command(self) -> Command:
        choices = [
            (self._accept, 8, True),
            (self._accept_what_is_over, 1, True),
            (self._record_gap, 1, True),
            (self._alarm, 1, True),
            (self._lease, 6, bool(self._waiting)),
            (self._release, 1, bool(self._leased)),
            (self._finish, 6, bool(self._leased)),
            (self._expire, 1, bool(self._waiting)),
            (self._confirm, 5, bool(self._rows)),
            (self._refuse, 2, any(self._is_new(row) for row in self._rows)),
            (self._retry, 1, bool(self._letters)),
        ]
        [choose] = self._random.choices([command for command, *_ in choices], [w * can for _, w, can in choices])
        return choose()

    def _accept(self) -> Command:
        event = self._an_event()
        changes = dict([ledger.open_event(event), ledger.attempts(event, 0), ledger.event_row(event)])
        is_recorded = self._random.random() < self._recorded_share
        if is_recorded:
            self.recorded.append(event)
            changes |= [ledger.told(event.id)]

        async def accept() -> None:
            await self._ledger.asked(self._journal.accept(event, replayed=is_recorded), changes)
            self.accepted += 1
            self._waiting.append(event)

        return accept()

    def _accept_what_is_over(self) -> Command:
        event = self._an_event()
        changes = dict([ledger.event_row(event), self._outcome_row(event, EventOutcome.DONE, "nothing to ask")])

        async def accept() -> None:
            await self._ledger.asked(self._journal.accept(event, EventOutcome.DONE, "nothing to ask"), changes)
            self.accepted += 1

        return accept()

    def _record_gap(self) -> Command:
        gap = Gap(self._an_id(), "test", "yard", NOW, NOW, "refused")
        return self._ledger.asked(self._journal.record_gap(gap), dict([ledger.row("gaps", to_json(gap_row(gap)))]))

    def _alarm(self) -> Command:
        message = str(self._an_id())
        alarm = to_json(alarm_row("default", "trying", message, NOW))
        return self._ledger.asked(self._journal.alarm("trying", message), dict([ledger.row("alarms", alarm)]))

    def _lease(self) -> Command:
        events = self._some_of(self._waiting)

        async def lease() -> None:
            changes = dict(ledger.attempts(event, self._attempts(event) + 1) for event in events)
            await self._ledger.asked(self._journal.lease([event.id for event in events]), changes)
            self._leased += events

        return lease()

    def _release(self) -> Command:
        asked, not_asked = self._some_of(self._leased), self._some_of(self._leased)

        async def release() -> None:
            changes = dict(ledger.attempts(event, self._attempts(event) - 1) for event in not_asked)
            ids = [[event.id for event in events] for events in (asked, not_asked)]
            await self._ledger.asked(self._journal.release(*ids), changes)
            self._waiting += asked + not_asked

        return release()

    def _finish(self) -> Command:
        outcome = self._random.choice((EventOutcome.DONE, EventOutcome.DEGRADED, EventOutcome.FAILED))
        return self._end(self._some_of(self._leased), outcome)

    def _expire(self) -> Command:
        return self._end(self._some_of(self._waiting), EventOutcome.EXPIRED)

    def _end(self, events: list[Event], outcome: EventOutcome) -> Command:
        has_analysis = outcome in (EventOutcome.DONE, EventOutcome.DEGRADED)
        endings = [
            Ending(event.id, outcome, "as told", an_analysis(event.id) if has_analysis else None) for event in events
        ]
        changes: dict[Fact, Any] = {
            fact: None for event in events for fact, _ in (ledger.open_event(event), ledger.attempts(event, 0))
        }
        changes |= [self._outcome_row(event, outcome, "as told") for event in events]
        changes |= [
            ledger.row("analyses", to_json(analysis_row(ending.analysis))) for ending in endings if ending.analysis
        ]
        return self._ledger.asked(self._journal.finish(endings), changes)

    def _confirm(self) -> Command:
        rows = self._some_of(self._rows)
        changes = {ledger.row(row.table, row.body)[0]: None for row in rows}
        return self._ledger.asked(self._journal.uploaded([row.seq for row in rows]), changes)

    def _refuse(self) -> Command:
        row = self._random.choice([row for row in self._rows if self._is_new(row)])
        self._rows.remove(row)
        fact, _ = ledger.row(row.table, row.body)
        self._refused.add(fact)
        changes: dict[Fact, Any] = {fact: None, **dict([ledger.dead(row.table, row.body)])}
        if row.table != "dead_letters":
            letter = dead_letter_row(row.table, "22P05", "refused", row.body, NOW)
            changes |= [ledger.row("dead_letters", to_json(letter))]
        return self._ledger.asked(self._journal.dead_letter(row, "22P05", "refused"), changes)

    def _is_new(self, row: OutboxRow) -> bool:
        """Not refused before: two letters about one row are one fact."""
        return ledger.row(row.table, row.body)[0] not in self._refused

    def _retry(self) -> Command:
        letters = self._some_of(self._letters)
        changes: dict[Fact, Any] = {ledger.dead(each.table, each.body)[0]: None for each in letters}
        changes |= [ledger.row(each.table, each.body) for each in letters]
        return self._ledger.asked(self._journal.retry_dead_letters([each.seq for each in letters]), changes)

    def _attempts(self, event: Event) -> int:
        fact, _ = ledger.attempts(event, 0)
        return int(self._ledger.certain[fact])

    def _some_of(self, items: list[T]) -> list[T]:
        """A few of them, taken out; maybe none."""
        self._random.shuffle(items)
        number = self._random.randint(0, min(len(items), 5))
        taken, items[:] = items[:number], items[number:]
        return taken

    def _an_event(self) -> Event:
        few, many = self._random.randint(0, 2_000), self._random.randint(0, 40_000)
        jpeg = self._random.randbytes(self._random.choice((few, few, few, many)))
        return an_event(self._random.choice(list(Priority)), id=self._an_id(), jpeg=jpeg)

    def _an_id(self) -> UUID:
        return UUID(bytes=self._random.randbytes(16), version=4)

    @staticmethod
    def _outcome_row(event: Event, outcome: EventOutcome, reason: str) -> tuple[Fact, Any]:
        return ledger.row("outcomes", to_json(outcome_row(event.id, outcome, reason, NOW)))
