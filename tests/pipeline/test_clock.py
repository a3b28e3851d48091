"""Clocks: which of them may be set by others, and what follows for ages, orders and rows."""

import asyncio
import ctypes
import json
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pipeline import clock as clock_module
from pipeline.clock import Clock, Moment
from pipeline.events import Priority
from pipeline.journal import JournalSettings, open_journal
from pipeline.queue import EventQueue, QueueSettings
from tests.pipeline.makers import an_event

YEAR_S = 365 * 24 * 3600.0


class SetClock(Clock):
    """A machine that can be booted again or sleep, with a wall clock that anyone can set."""

    def __init__(self, boot_id: str = "a", boot_s: float = 100.0, wall_s: float = 1_000_000.0) -> None:
        self.boot_id, self.boot_s, self.wall_s, self.is_synced = boot_id, boot_s, wall_s, False

    def boot(self) -> float:
        return self.boot_s

    def wall(self) -> float:
        return self.wall_s

    def synced(self) -> bool:
        return self.is_synced


@pytest.mark.parametrize("jump_s", [YEAR_S, -3600.0, -1_000_000.0])
def test_an_age_within_one_boot_does_not_follow_the_wall_clock(jump_s: float) -> None:
    """Case 47: a year ahead, an hour back, 1970."""
    clock = SetClock()
    then = (clock.boot_id, clock.boot(), clock.wall())
    clock.wall_s += jump_s
    clock.boot_s += 7.0
    assert clock.age_s(*then) == 7.0


@pytest.mark.parametrize(("wall_s", "age_s"), [(1_000_060.0, 60.0), (5.0, 0.0)])
def test_across_boots_wall_time_is_all_there_is_and_what_went_backwards_is_young(wall_s: float, age_s: float) -> None:
    """Case 47: booted again, the second time in 1970."""
    then = ("a", 100.0, 1_000_000.0)
    assert SetClock("b", 3.0, wall_s).age_s(*then) == age_s


@pytest.mark.parametrize("nonsense", [float("inf"), float("-inf"), float("nan")])
def test_a_time_that_is_none_is_no_age(nonsense: float) -> None:
    assert SetClock().age_s("a", nonsense, 0.0) == 0.0


def test_a_machine_that_slept_has_grown_older() -> None:
    """Case 48: boot time counts the sleep in, which the monotonic clock of Linux does not."""
    clock = Clock()
    before = time.clock_gettime(time.CLOCK_BOOTTIME)
    assert before <= clock.boot() <= time.clock_gettime(time.CLOCK_BOOTTIME)
    assert clock.boot_id == Path("/proc/sys/kernel/random/boot_id").read_text().strip()


async def test_an_outage_that_the_machine_slept_through_is_as_long_as_it_was(tmp_path: Path) -> None:
    """Case 48."""
    clock = SetClock()
    async with open_journal(tmp_path, JournalSettings(), clock) as journal:
        await journal.accept(an_event())
        clock.boot_s += 8 * 3600.0
        [waiting] = await journal.recover()
        assert waiting.age_s == 8 * 3600.0


async def test_order_and_ids_do_not_follow_a_wall_clock_that_goes_back(tmp_path: Path) -> None:
    """Case 47."""
    clock = SetClock()
    events = [an_event(Priority.MEDIUM) for _ in range(20)]
    async with open_journal(tmp_path, JournalSettings(), clock) as journal:
        for event in events:
            clock.wall_s -= 3600.0
            await journal.accept(event)
        waiting = await journal.recover()
    assert [each.id for each in waiting] == [event.id for event in events]
    assert len({event.id for event in events}) == len(events)


async def test_a_queue_turns_by_a_clock_of_its_own() -> None:
    """Case 47: nothing expires, and nothing overtakes, because someone set the wall clock."""
    queue = EventQueue(QueueSettings(), clock=lambda: 5.0)
    first, second = an_event(), an_event()
    queue.offer(first.id, first.priority)
    queue.offer(second.id, second.priority)
    assert queue.expired() == []
    async with asyncio.timeout(10):
        assert await queue.take(2, linger_s=0) == [first.id, second.id]


async def test_a_row_says_whether_its_time_can_be_trusted_and_when_since_boot_it_was(tmp_path: Path) -> None:
    """Case 47: booted in 1970, set later."""
    clock = SetClock(wall_s=30.0, boot_s=30.0)
    async with open_journal(tmp_path, JournalSettings(), clock) as journal:
        await journal.accept(an_event())
        clock.wall_s, clock.boot_s, clock.is_synced = 1_800_000_000.0, 50.0, True
        await journal.accept(an_event())
        early, right = [json.loads(row.body) for row in await journal.outbox(9, 10**6)]
    assert (early["clock_synced"], early["boot_id"], early["boot_s"]) == (False, "a", 30.0)
    assert early["accepted_at"] == "1970-01-01T00:00:30+00:00"
    assert (right["clock_synced"], right["boot_id"], right["boot_s"]) == (True, "a", 50.0)


def test_the_kernel_says_whether_a_time_server_set_the_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """STA_UNSYNC in struct timex, where adjtimex(2) puts it, is the same answer in another form."""

    class Timex(ctypes.Structure):
        _fields_ = (
            ("modes", ctypes.c_uint),
            *((name, ctypes.c_long) for name in ("offset", "freq", "maxerror", "esterror")),
            ("status", ctypes.c_int),
            ("rest", ctypes.c_byte * 400),
        )

    asked = Timex()
    assert ctypes.CDLL(None).adjtimex(ctypes.byref(asked)) >= 0
    assert Clock().synced() is not bool(asked.status & 0x40)


@pytest.mark.parametrize(("marked", "synced"), [(True, True), (False, None)])
def test_where_the_kernel_may_not_be_asked_timesyncd_is_or_nobody_knows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, marked: bool, synced: bool | None
) -> None:
    """ProtectClock=yes of a systemd unit takes the call away."""

    class Forbidden:
        def ntp_adjtime(self, _timex: object) -> int:
            return -1

    mark = tmp_path / "synchronized"
    if marked:
        mark.touch()
    monkeypatch.setattr(clock_module, "_KERNEL", Forbidden())
    monkeypatch.setattr(clock_module, "_TIMESYNCD_HAS_SET_IT", mark)
    assert Clock().synced() is synced


def test_a_moment_is_both_clocks_at_once() -> None:
    assert SetClock(wall_s=0.0).moment() == Moment(datetime(1970, 1, 1, tzinfo=UTC), False, "a", 100.0)
