"""Who is in the batch: rows that enter and leave at any step, memory that is bounded, and ways to end."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from PIL import Image

from providers.local.errors import ModelError, OverloadedError
from providers.local.moondream2 import skills
from providers.local.moondream2.batch import Batch
from providers.local.moondream2.crops import crops_of
from providers.local.moondream2.model import Moondream
from providers.local.moondream2.scheduler import Job, Limits, Picture, Scheduler
from providers.local.moondream2.skills import ChooseToken, Skill, Token

PATIENCE_S = 60
AT_ONCE = Limits(gather_s=0.0)


@pytest.fixture(scope="module")
def small(model: Moondream) -> list[Picture]:
    """Of one crop each, and all different."""
    colours = ("red", "green", "blue", "white", "black")
    return [
        Picture(colour.encode(), crops_of(Image.new("RGB", (64, 64), colour), model.config.vision))
        for colour in colours
    ]


def counting(steps: int, at_step: Callable[[int], None] = lambda _: None) -> Callable[[], Skill[int]]:
    """A row that lives for so many steps."""

    def skill() -> Skill[int]:
        yield ChooseToken()
        for number in range(steps):
            at_step(number)
            yield ChooseToken(Token(100 + number))
        return steps

    return skill


def job(picture: Picture | None, steps: int = 3, urgency: int = 0, **more: Any) -> Job:
    return Job((Token(1), Token(2)), picture, counting(steps, **more), 2 + steps, urgency)


@contextmanager
def running(model: Moondream, limits: Limits = AT_ONCE) -> Iterator[Scheduler]:
    scheduler = Scheduler(Batch(model), limits)
    thread = threading.Thread(target=scheduler.run)
    thread.start()
    yield scheduler
    scheduler.waiting.close()
    thread.join(PATIENCE_S)
    assert not thread.is_alive()


def test_what_comes_together_is_one_batch_and_a_picture_is_encoded_once(model: Moondream, small: list[Picture]) -> None:
    jobs = [job(picture) for picture in small[:3] for _ in range(4)]
    with running(model) as scheduler:
        scheduler.waiting.submit(*jobs)
        assert [each.future.result(PATIENCE_S) for each in jobs] == [3] * 12
        tally = scheduler.tally
    assert (tally.largest_batch, tally.pictures_encoded, tally.rows) == (12, 3, 12)
    assert tally.steps == 3


def test_rows_enter_and_leave_at_any_step(model: Moondream, small: list[Picture]) -> None:
    """A short row that comes in the middle of a long one has ended before it."""

    def at_step(number: int) -> None:
        if number == 6:
            scheduler.waiting.submit(short)

    ended: list[str] = []
    with running(model) as scheduler:
        short = job(small[1], 2)
        short.future.add_done_callback(lambda _: ended.append("short"))
        long = job(small[0], 60, at_step=at_step)
        long.future.add_done_callback(lambda _: ended.append("long"))
        scheduler.waiting.submit(long)
        assert long.future.result(PATIENCE_S) == 60
    assert ended == ["short", "long"]


def test_the_most_urgent_come_first_and_the_same_urgency_by_age(model: Moondream, small: list[Picture]) -> None:
    ended: list[str] = []

    def at_step(number: int) -> None:
        if number == 0:
            scheduler.waiting.submit(*others)

    first = job(small[0], 2, at_step=at_step)
    others = [job(small[0], 1, urgency) for urgency in (5, 1, 5, 0)]
    for name, each in zip(("late", "soon", "later", "now"), others, strict=True):
        each.future.add_done_callback(lambda _, name=name: ended.append(name))  # type: ignore[misc]
    with running(model, Limits(rows=1, gather_s=0.0)) as scheduler:
        scheduler.waiting.submit(first)
        for each in others:
            each.future.result(PATIENCE_S)
    assert ended == ["now", "soon", "late", "later"]


def test_the_batch_is_bounded_by_rows_by_their_memory_and_by_that_of_pictures(
    model: Moondream, small: list[Picture]
) -> None:
    place = 2 * 3 * 2 * 64 * 4  # keys and values, layers, heads, numbers, bytes
    for limits, largest in (
        (Limits(rows=3, gather_s=0.0), 3),
        (Limits(row_bytes=2 * 5 * place, gather_s=0.0), 2),
        (Limits(prefix_bytes=2 * 730 * place, gather_s=0.0), 2),
    ):
        with running(model, limits) as scheduler:
            jobs = [job(picture) for picture in small]
            scheduler.waiting.submit(*jobs)
            assert [each.future.result(PATIENCE_S) for each in jobs] == [3] * 5
            assert scheduler.tally.largest_batch == largest
            assert scheduler.stats()["pictures_bytes"] <= limits.prefix_bytes


def test_pictures_that_nobody_asked_about_for_long_are_forgotten_first(model: Moondream, small: list[Picture]) -> None:
    place = 2 * 3 * 2 * 64 * 4
    with running(model, Limits(prefix_bytes=3 * 730 * place, gather_s=0.0)) as scheduler:
        for number in (0, 1, 2, 0, 3, 0, 1):  # at 3, the oldest is 1; at the last 1, it is 2
            scheduler.waiting.submit(asked := job(small[number]))
            asked.future.result(PATIENCE_S)
        assert scheduler.tally.pictures_encoded == 5


def test_beyond_the_queue_s_limit_all_of_a_request_is_refused(model: Moondream, small: list[Picture]) -> None:
    scheduler = Scheduler(Batch(model), Limits(waiting=4))
    scheduler.waiting.submit(*(job(small[0]) for _ in range(3)))
    with pytest.raises(OverloadedError, match="3 questions are waiting"):
        scheduler.waiting.submit(job(small[0]), job(small[0]))
    scheduler.waiting.submit(job(small[0]))
    assert scheduler.stats()["waiting"] == 4


def test_a_row_that_is_cancelled_leaves_and_the_others_go_on(model: Moondream, small: list[Picture]) -> None:
    seen: list[int] = []

    def at_step(number: int) -> None:
        seen.append(number)
        if number == 3:
            gone.future.cancel()

    with running(model) as scheduler:
        gone, stays = job(small[0], 500, at_step=at_step), job(small[0], 20)
        scheduler.waiting.submit(gone, stays)
        assert stays.future.result(PATIENCE_S) == 20
        with pytest.raises(CancelledError):
            gone.future.result(PATIENCE_S)
    assert max(seen) <= 5


def test_a_waiting_row_that_is_cancelled_is_never_asked(model: Moondream, small: list[Picture]) -> None:
    scheduler = Scheduler(Batch(model), AT_ONCE)
    gone, stays = job(small[0]), job(small[1])
    scheduler.waiting.submit(gone, stays)
    gone.future.cancel()
    thread = threading.Thread(target=scheduler.run)
    thread.start()
    assert stays.future.result(PATIENCE_S) == 3
    scheduler.waiting.close()
    thread.join(PATIENCE_S)
    assert scheduler.tally.pictures_encoded == 1


def test_out_of_memory_the_batch_is_split_and_everybody_is_answered(
    model: Moondream, small: list[Picture], monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = Batch.step

    def too_large(self: Batch) -> Any:
        if len(self) > 2:
            raise torch.OutOfMemoryError("no memory")
        return usual(self)

    monkeypatch.setattr(Batch, "step", too_large)
    jobs = [job(picture) for picture in small]
    with running(model) as scheduler:
        scheduler.waiting.submit(*jobs)
        assert [each.future.result(PATIENCE_S) for each in jobs] == [3] * 5
        assert scheduler.tally.splits == 1
        assert not scheduler.failed.done()


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("no memory"), RuntimeError("device-side assert")])
def test_where_not_even_one_fits_or_the_device_fails_it_ends_and_nobody_waits(
    model: Moondream, small: list[Picture], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fails(_self: Batch) -> Any:
        raise error

    monkeypatch.setattr(Batch, "step", fails)
    jobs = [job(picture) for picture in small]
    with running(model) as scheduler:
        scheduler.waiting.submit(*jobs)
        for each in jobs:
            with pytest.raises(ModelError, match=str(error)):
                each.future.result(PATIENCE_S)
        with pytest.raises(ModelError, match=str(error)):
            scheduler.failed.result(PATIENCE_S)
        with pytest.raises(ModelError):
            scheduler.waiting.submit(job(small[0]))


def test_who_waits_when_it_is_stopped_is_told(model: Moondream, small: list[Picture]) -> None:
    with running(model) as scheduler:
        endless = job(small[0], 500, at_step=lambda number: scheduler.waiting.close() if number == 2 else None)
        scheduler.waiting.submit(endless)
        with pytest.raises(ModelError, match="stopped"):
            endless.future.result(PATIENCE_S)


def test_an_idle_engine_waits_for_those_whose_picture_is_still_being_read(
    model: Moondream, small: list[Picture]
) -> None:
    with running(model, Limits(gather_s=PATIENCE_S)) as scheduler:
        with scheduler.waiting.arriving():
            scheduler.waiting.submit(first := job(small[0]))
            with scheduler.waiting.arriving():
                scheduler.waiting.submit(second := job(small[1]))
        assert [each.future.result(PATIENCE_S) for each in (first, second)] == [3, 3]
        assert scheduler.tally.largest_batch == 2


def test_a_row_without_a_picture_beside_rows_with_one(model: Moondream, small: list[Picture]) -> None:
    """Its answer is what it is alone."""

    def alone(which: list[Job]) -> list[Any]:
        results = []
        with running(model) as scheduler:
            for each in which:
                scheduler.waiting.submit(each)
                results.append(each.future.result(PATIENCE_S))
        return results

    def likely(picture: Picture | None) -> Job:
        return Job((Token(1), Token(296), Token(2), Token(3)), picture, lambda: skills.likelihoods([5, 6, 7]), 8)

    with running(model) as scheduler:
        together = [likely(picture) for picture in (None, small[0], None, small[1])]
        scheduler.waiting.submit(*together)
        found = [each.future.result(PATIENCE_S) for each in together]
    expected = alone([likely(picture) for picture in (None, small[0], None, small[1])])
    for ours, theirs in zip(found, expected, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-4)
