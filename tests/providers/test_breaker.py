"""The breaker by itself: its window, and what comes in late."""

from providers.breaker import Breaker, Permit
from tests.providers.fakes import Clock


def a_breaker(clock: Clock) -> Breaker:
    return Breaker(clock, uniform=lambda low, high: (low + high) / 2)


def test_four_failures_are_too_few_to_tell() -> None:
    breaker = a_breaker(Clock())
    for _ in range(4):
        breaker.record(Permit.NORMAL, good=False)
    assert not breaker.is_open


def test_half_of_the_last_minutes_calls_is_too_many() -> None:
    breaker = a_breaker(Clock())
    for good in [True, True, True, False, False]:
        breaker.record(Permit.NORMAL, good=good)
    assert not breaker.is_open
    breaker.record(Permit.NORMAL, good=False)
    assert breaker.is_open


def test_failures_of_long_ago_are_forgotten() -> None:
    breaker = a_breaker(clock := Clock())
    for _ in range(4):
        breaker.record(Permit.NORMAL, good=False)
    clock.pass_s(601)
    breaker.record(Permit.NORMAL, good=False)
    assert not breaker.is_open


def test_five_slow_failures_are_enough_though_they_take_minutes() -> None:
    breaker = a_breaker(clock := Clock())
    for _ in range(5):
        clock.pass_s(30)
        breaker.record(Permit.NORMAL, good=False)
    assert breaker.is_open


def test_what_comes_in_late_changes_nothing() -> None:
    breaker = a_breaker(clock := Clock())
    for _ in range(5):
        breaker.record(Permit.NORMAL, good=False)
    breaker.record(Permit.NORMAL, good=True)
    breaker.record(Permit.NORMAL, good=False)
    assert breaker.wait_s == 15
    clock.pass_s(15)
    assert breaker.admit() is Permit.TRIAL
    assert breaker.admit() is None


def test_a_good_trial_closes_it_with_a_clean_slate() -> None:
    breaker = a_breaker(clock := Clock())
    for _ in range(5):
        breaker.record(Permit.NORMAL, good=False)
    clock.pass_s(15)
    assert breaker.admit() is Permit.TRIAL
    breaker.record(Permit.TRIAL, good=True)
    assert breaker.admit() is Permit.NORMAL
    breaker.record(Permit.NORMAL, good=False)
    assert not breaker.is_open
