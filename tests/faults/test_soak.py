"""A short soak: all faults at once, for hours of the boxes' time."""

import pytest

from tests.faults.resources import Sample, growth
from tests.faults.soak import Soak, soak


@pytest.mark.faults
@pytest.mark.timeout(900)
async def test_hours_of_all_faults_at_once_lose_nothing_and_nothing_grows(seed: str) -> None:
    """Case 60. `make soak HOURS=72` is the whole of it."""
    told = await soak(2, seed, shift_h=1)
    assert told.judge() == []
    assert told.accepted > 5000
    assert len(told.happened) > 5


def test_a_soak_in_which_memory_files_or_threads_grow_is_not_passed() -> None:
    """Case 60."""
    samples = [Sample(hour * 3600.0, 70_000 + 2048 * hour, 12 + hour // 2, 3) for hour in range(24)]
    grown = growth(samples)
    assert round(grown.resident_mb_per_h, 6) == 2.0
    assert (grown.descriptors, grown.threads) == (5, 0)
    assert Soak(24, 60, "", samples=samples).judge() == ["memory grows by 2.00 MB an hour", "5 more files are open"]
    assert Soak(24, 60, "", samples=[Sample(hour * 3600.0, 70_000, 12, 3) for hour in range(24)]).judge() == []
