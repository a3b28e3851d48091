"""All that can be done to journal, queue and uploader and all that can happen to them, in any order, against a simple
model of what was promised."""

import asyncio
import logging
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import apsw
import pytest
import structlog
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from pipeline import journal_schema
from pipeline.journal_file import JournalFile
from pipeline.queue import EventQueue
from pipeline.store import OutboxRow
from tests.faults.breakable import Action, Breakable

LUCK = st.integers(0, 2**32).map(Random)
CHANGES = st.integers(0, 40)
"""Of the disk, in an action: a commit is some ten."""

ACTIONS = ("accept", "tell_again", "take", "finish", "release", "expire", "upload", "retry")

SEARCH = (Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink)
"""Without the last phase, which says which line is to blame: it takes longer than a person."""


class Unattended(RuleBasedStateMachine):
    """Actions alone, and actions in whose middle something happens. After every step the books must be right."""

    def __init__(self) -> None:
        super().__init__()
        self._folder = TemporaryDirectory(prefix="lva-test-")
        self._runner = asyncio.Runner()
        self._box = Breakable(Path(self._folder.name))
        self._patch = pytest.MonkeyPatch()

    @initialize(beyond_quota_bytes=st.sampled_from((100_000, 8 * 2**20)))
    def starts(self, beyond_quota_bytes: int) -> None:
        """With little room beyond the quota, not even the row that tells of shedding always finds a place."""
        self._patch.setattr(journal_schema, "RESERVE_BYTES", beyond_quota_bytes)
        self._runner.run(self._box.start({}))

    @rule(luck=LUCK)
    def accepts(self, luck: Random) -> None:
        self._runner.run(self._box.accept(luck))

    @rule(luck=LUCK)
    def is_flooded(self, luck: Random) -> None:
        self._runner.run(self._box.flood(luck))

    @rule(luck=LUCK)
    def plays_a_recording_again(self, luck: Random) -> None:
        self._runner.run(self._box.tell_again(luck))

    @rule(luck=LUCK)
    def takes(self, luck: Random) -> None:
        self._runner.run(self._box.take(luck))

    @rule(luck=LUCK)
    def finishes(self, luck: Random) -> None:
        self._runner.run(self._box.finish(luck))

    @rule(luck=LUCK)
    def releases(self, luck: Random) -> None:
        self._runner.run(self._box.release(luck))

    @rule(luck=LUCK)
    def uploads(self, luck: Random) -> None:
        self._runner.run(self._box.upload(luck))

    @rule(luck=LUCK)
    def retries_what_was_refused(self, luck: Random) -> None:
        self._runner.run(self._box.retry(luck))

    @rule(luck=LUCK)
    def forgets(self, luck: Random) -> None:
        self._runner.run(self._box.forget(luck))

    @rule(luck=LUCK)
    def drains(self, luck: Random) -> None:
        self._runner.run(self._box.drain(luck))

    @rule(luck=LUCK)
    def lets_time_pass(self, luck: Random) -> None:
        self._runner.run(self._box.expire(luck))

    @rule(seconds=st.sampled_from((-3600.0, 3600.0, 365 * 86400.0, -1.7e9)))
    def has_its_clock_set(self, seconds: float) -> None:
        self._box.clocks.wall_s += seconds

    @rule()
    def restarts(self) -> None:
        self._runner.run(self._box.restart())

    @rule(action=st.sampled_from(ACTIONS), luck=LUCK, changes=CHANGES)
    def loses_power(self, action: str, luck: Random, changes: int) -> None:
        self._runner.run(self._box.lose_power(self._action(action), luck, changes))

    @rule(action=st.sampled_from(ACTIONS), luck=LUCK, changes=CHANGES)
    def is_killed(self, action: str, luck: Random, changes: int) -> None:
        self._runner.run(self._box.be_killed(self._action(action), luck, changes))

    @rule(action=st.sampled_from(ACTIONS), luck=LUCK, changes=CHANGES)
    def meets_a_disk_error(self, action: str, luck: Random, changes: int) -> None:
        self._runner.run(self._box.meet_a_disk_error(self._action(action), luck, changes))

    @invariant()
    def keeps_its_promises(self) -> None:
        self._runner.run(self._box.audit())

    def teardown(self) -> None:
        try:
            self._runner.run(self._box.settle())
        finally:
            self._patch.undo()
            self._runner.run(self._box.stop())
            self._runner.close()
            self._folder.cleanup()

    def _action(self, name: str) -> Action:
        action: Action = getattr(self._box, name)
        return action


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Thousands of boxes say much. Nobody reads it, and kept, it would fill the memory."""
    usual = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    yield
    structlog.configure(**usual)


def go_on(examples: int, steps: int, phases: Collection[Phase] = SEARCH) -> None:
    run_state_machine_as_test(
        Unattended, settings=settings(max_examples=examples, stateful_step_count=steps, phases=phases)
    )


def test_whatever_happens_the_promises_are_kept() -> None:
    go_on(examples=60, steps=40)


@pytest.mark.faults
@pytest.mark.timeout(3600)
def test_whatever_happens_the_promises_are_kept_for_long() -> None:
    go_on(examples=2000, steps=60)


def rows_are_forgotten_when_they_are_read(patch: pytest.MonkeyPatch) -> None:
    read = JournalFile.outbox

    def read_and_forget(file: JournalFile, limit_rows: int, limit_bytes: int) -> list[OutboxRow]:
        rows = read(file, limit_rows, limit_bytes)
        file.uploaded([row.seq for row in rows])
        return rows

    patch.setattr(JournalFile, "outbox", read_and_forget)


def an_event_goes_in_one_commit_and_its_outcome_comes_in_another(patch: pytest.MonkeyPatch) -> None:
    send = JournalFile._send

    def send_alone(file: JournalFile, table: str, body: str) -> None:
        file.connection.execute("COMMIT; BEGIN IMMEDIATE")
        send(file, table, body)

    patch.setattr(JournalFile, "_send", send_alone)


def commits_are_not_synced(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(journal_schema._PRAGMAS, "synchronous", 1)


def what_a_worker_had_stays_its_own(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(JournalFile, "recover", lambda file: [])


def the_least_urgent_comes_first(patch: pytest.MonkeyPatch) -> None:
    pop = EventQueue._pop
    patch.setattr(EventQueue, "_pop", lambda queue, size: pop(queue, size)[::-1])


def nobody_remembers_what_a_recording_told(patch: pytest.MonkeyPatch) -> None:
    accept: Callable[..., None] = JournalFile.accept
    patch.setattr(JournalFile, "is_told", lambda file, event_id: False)
    patch.setattr(JournalFile, "accept", lambda file, *what: accept(file, *what[:-1], False))


@pytest.mark.parametrize(
    "mutate",
    [
        rows_are_forgotten_when_they_are_read,
        an_event_goes_in_one_commit_and_its_outcome_comes_in_another,
        commits_are_not_synced,
        what_a_worker_had_stays_its_own,
        the_least_urgent_comes_first,
        nobody_remembers_what_a_recording_told,
    ],
)
def test_a_broken_promise_is_found(
    mutate: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    mutate(monkeypatch)
    with pytest.raises((AssertionError, apsw.ConstraintError, BaseExceptionGroup)):
        go_on(examples=200, steps=40, phases=[Phase.generate])
