"""The messages between the two processes, and the waits between two tries."""

from hypothesis import given
from hypothesis import strategies as st

from pipeline.backoff import Backoff
from pipeline.camera_link import Message, Splitter, pack


@given(
    messages=st.lists(st.tuples(st.sampled_from(Message), st.binary(max_size=300)), max_size=12),
    size=st.integers(1, 200),
)
def test_messages_come_through_in_whatever_pieces(messages: list[tuple[Message, bytes]], size: int) -> None:
    stream = b"".join(pack(kind, payload) for kind, payload in messages)
    splitter = Splitter()
    found = []
    for start in range(0, len(stream), size):
        found += list(splitter.feed(stream[start : start + size]))
    assert found == messages


def test_waits_double_up_to_the_cap_and_start_again_after_a_success() -> None:
    backoff = Backoff(1, 60, draw=lambda low, high: high)
    assert [backoff.next_s() for _ in range(8)] == [1, 2, 4, 8, 16, 32, 60, 60]
    backoff.reset()
    assert backoff.next_s() == 1


def test_waits_are_spread_over_the_whole_span() -> None:
    waits = [Backoff(8, 8).next_s() for _ in range(200)]
    assert 0 <= min(waits) < 1
    assert 7 < max(waits) <= 8


def test_a_door_that_locks_is_never_knocked_at_soon() -> None:
    backoff = Backoff(30, 600, floor_share=0.5)
    assert all(backoff.next_s() >= 15 for _ in range(10))
