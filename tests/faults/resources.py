"""What a process holds, as the kernel counts it, and whether that grows."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import linear_regression


def resident_kb(pid: int | str = "self", *, most: bool = False) -> int:
    """Memory now, or the most since the process began or its count was cleared."""
    key = "VmHWM:" if most else "VmRSS:"
    lines = Path(f"/proc/{pid}/status").read_text().split("\n")
    return next(int(line.split()[1]) for line in lines if line.startswith(key))


def descriptors(pid: int | str = "self") -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def threads(pid: int | str = "self") -> int:
    return len(list(Path(f"/proc/{pid}/task").iterdir()))


@dataclass(frozen=True, slots=True)
class Sample:
    """What a process held at a time."""

    at_s: float
    resident_kb: int
    descriptors: int
    threads: int

    @classmethod
    def of(cls, pid: int, at_s: float) -> "Sample":
        return cls(at_s, resident_kb(pid), descriptors(pid), threads(pid))


@dataclass(frozen=True, slots=True)
class Growth:
    """From the first half of some samples to the second; what came before `WARM_SHARE` of them is left out."""

    resident_mb: float
    """Of the most that there was."""
    resident_mb_per_h: float
    """The slope of a straight line through the samples."""
    descriptors: int
    threads: int


WARM_SHARE = 0.2


def growth(samples: Sequence[Sample]) -> Growth:
    warm = samples[round(len(samples) * WARM_SHARE) :]
    first, second = warm[: len(warm) // 2], warm[len(warm) // 2 :]
    slope, _ = linear_regression([each.at_s / 3600 for each in warm], [each.resident_kb / 1024 for each in warm])
    return Growth(
        (max(each.resident_kb for each in second) - max(each.resident_kb for each in first)) / 1024,
        slope,
        max(each.descriptors for each in second) - max(each.descriptors for each in first),
        max(each.threads for each in second) - max(each.threads for each in first),
    )
