import asyncio
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.events import Priority
from pipeline.identity import fresh_id
from pipeline.queue import EventQueue, Patience, QueueSettings, TimeToLive


class FakeClock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def a_queue(clock: FakeClock | None = None, **settings: object) -> EventQueue:
    return EventQueue(QueueSettings(**settings), clock or FakeClock())


def offer(queue: EventQueue, priority: Priority, age_s: float = 0.0) -> UUID:
    event_id = fresh_id()
    queue.offer(event_id, priority, age_s)
    return event_id


async def test_an_urgent_event_leads_the_batch() -> None:
    queue = a_queue()
    low, critical = offer(queue, Priority.LOW), offer(queue, Priority.CRITICAL)
    assert await queue.take(2, linger_s=0) == [critical, low]


async def test_critical_stands_before_an_event_of_any_age() -> None:
    queue = a_queue()
    old, critical = offer(queue, Priority.HIGH, age_s=100_000.0), offer(queue, Priority.CRITICAL)
    assert await queue.take(2, linger_s=0) == [critical, old]


async def test_a_low_event_that_has_waited_out_its_patience_comes_before_a_new_high_one() -> None:
    queue = a_queue(patience_s=Patience(high=2, low=60))
    waited, new = offer(queue, Priority.LOW, age_s=59.0), offer(queue, Priority.HIGH)
    assert await queue.take(1, linger_s=0) == [waited]
    assert await queue.take(1, linger_s=0) == [new]


async def test_events_of_a_class_are_served_in_the_order_of_their_coming() -> None:
    """Case 46."""
    queue = a_queue()
    ids = [offer(queue, Priority.MEDIUM) for _ in range(50)]
    assert await queue.take(50, linger_s=0) == ids


async def test_a_full_queue_sheds_the_oldest_of_the_least_urgent() -> None:
    queue = a_queue(limit=3)
    high = offer(queue, Priority.HIGH)
    oldest_low, _ = offer(queue, Priority.LOW), offer(queue, Priority.LOW)
    assert queue.offer(fresh_id(), Priority.MEDIUM) == oldest_low
    assert len(queue) == 3
    assert oldest_low not in (taken := await queue.take(3, linger_s=0))
    assert high in taken


async def test_the_new_event_itself_is_shed_when_it_is_the_least_urgent() -> None:
    queue = a_queue(limit=1)
    offer(queue, Priority.HIGH)
    late = fresh_id()
    assert queue.offer(late, Priority.LOW) == late


async def test_an_event_expires_when_its_class_has_waited_long_enough() -> None:
    clock = FakeClock()
    queue = a_queue(clock, ttl_s=TimeToLive(low=10, high=100))
    low, high = offer(queue, Priority.LOW), offer(queue, Priority.HIGH)
    clock.now_s += 11
    assert queue.expired() == [low]
    assert await queue.take(2, linger_s=0) == [high]


async def test_the_age_before_a_restart_counts_towards_the_time_to_live() -> None:
    queue = a_queue(ttl_s=TimeToLive(low=10))
    late = offer(queue, Priority.LOW, age_s=11)
    assert queue.expired() == [late]


async def test_an_id_that_waits_is_not_added_twice() -> None:
    queue = a_queue()
    event_id = offer(queue, Priority.LOW)
    queue.offer(event_id, Priority.LOW)
    assert await queue.take(5, linger_s=0) == [event_id]
    assert len(queue) == 0


async def test_a_batch_waits_a_little_for_company_and_lets_a_late_urgent_event_lead() -> None:
    queue = a_queue()
    low = offer(queue, Priority.LOW)
    taking = asyncio.create_task(queue.take(2, linger_s=30))
    await asyncio.sleep(0)
    critical = offer(queue, Priority.CRITICAL)
    assert await asyncio.wait_for(taking, 5) == [critical, low]


async def test_a_cancelled_take_loses_nothing() -> None:
    queue = a_queue()
    event_id = offer(queue, Priority.LOW)
    taking = asyncio.create_task(queue.take(2, linger_s=30))
    await asyncio.sleep(0)
    taking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await taking
    assert await queue.take(1, linger_s=0) == [event_id]


async def test_a_closed_queue_gives_what_is_left_to_all_workers_and_then_nothing() -> None:
    queue = a_queue()
    ids = {offer(queue, Priority.LOW) for _ in range(3)}
    queue.close()
    takes = await asyncio.gather(*(queue.take(1, linger_s=0.01) for _ in range(6)))
    assert {event_id for batch in takes for event_id in batch} == ids
    assert takes.count([]) == 3


async def test_a_take_goes_on_waiting_when_what_woke_it_was_shed_meanwhile() -> None:
    queue = a_queue()
    gone = offer(queue, Priority.LOW)
    assert queue.discard(gone)
    taking = asyncio.create_task(queue.take(1, linger_s=0))
    await asyncio.sleep(0)
    stays = offer(queue, Priority.LOW)
    assert await asyncio.wait_for(taking, 5) == [stays]


@given(st.lists(st.tuples(st.sampled_from(list(Priority)), st.floats(0, 1e6)), max_size=60), st.integers(1, 40))
def test_nothing_is_lost_or_doubled_and_the_limit_holds(offers: list[tuple[Priority, float]], limit: int) -> None:
    async def run() -> None:
        queue = a_queue(limit=limit)
        ids: list[UUID] = []
        shed: list[UUID] = []
        for priority, age_s in offers:
            ids.append(event_id := fresh_id())
            if (dropped := queue.offer(event_id, priority, age_s)) is not None:
                shed.append(dropped)
            assert len(queue) <= limit
        queue.close()
        taken = await queue.take(len(offers) + 1, linger_s=0)
        assert sorted(taken + shed) == sorted(ids)

    asyncio.run(run())


async def test_an_event_that_was_gone_and_came_back_waits_for_its_new_turn() -> None:
    queue = a_queue()
    back, other = offer(queue, Priority.MEDIUM), offer(queue, Priority.MEDIUM)
    queue.discard(back)
    queue.offer(back, Priority.MEDIUM)
    assert await queue.take(3, linger_s=0) == [other, back]


async def test_what_was_shed_while_nobody_took_anything_does_not_stay_in_memory() -> None:
    """Case 45."""
    queue = a_queue(limit=10)
    for _ in range(20_000):
        offer(queue, Priority.CRITICAL)
    assert queue._heap.qsize() < 2000
    last = offer(queue, Priority.CRITICAL)
    assert (await queue.take(20, linger_s=0))[-1] == last


async def test_a_queue_knows_who_waits() -> None:
    queue = a_queue()
    waits = offer(queue, Priority.LOW)
    assert waits in queue
    queue.discard(waits)
    assert waits not in queue


async def test_a_flood_of_the_urgent_holds_up_the_others_only_as_long_as_their_patience() -> None:
    """Case 45: a thousand HIGH a second, and the one LOW among them is not served last."""
    clock = FakeClock()
    queue = a_queue(clock, patience_s=Patience(high=2, low=120))
    low = offer(queue, Priority.LOW)
    served: list[UUID] = []
    while low not in served:
        for _ in range(20):
            offer(queue, Priority.HIGH)
        clock.now_s += 1
        served += await queue.take(10, linger_s=0)
        assert clock.now_s < 1000 + 3 * 120
    assert len(queue) > 0


@given(st.lists(st.sampled_from(list(Priority)), max_size=60))
def test_what_came_at_the_same_moment_is_served_class_by_class_in_the_order_of_coming(offers: list[Priority]) -> None:
    """Case 46. The clock stands still, so nothing but the order of coming tells the events of a class apart."""

    async def run() -> None:
        queue = a_queue(limit=100)
        ids = [(priority, offer(queue, priority)) for priority in offers]
        queue.close()
        in_order = [event_id for _, event_id in sorted(ids, key=lambda each: each[0])]
        assert await queue.take(100, linger_s=0) == in_order

    asyncio.run(run())


async def test_a_batch_that_finds_no_company_goes_alone() -> None:
    queue = a_queue()
    alone = offer(queue, Priority.LOW)
    assert await asyncio.wait_for(queue.take(2, linger_s=0.01), 5) == [alone]


def test_a_queue_says_what_time_it_is_by_its_own_clock() -> None:
    assert a_queue(FakeClock()).now_s() == 1000.0


def test_a_queue_says_how_many_wait_by_class() -> None:
    queue = a_queue()
    offer(queue, Priority.LOW)
    assert queue.depth() == {"critical": 0, "high": 0, "medium": 0, "low": 1}
