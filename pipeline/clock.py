"""What time it is, for the journal: wall time for rows, boot time for ages, and whether the wall clock is right."""

import ctypes
import math
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

_KERNEL = ctypes.CDLL(None, use_errno=True)
_TIMEX_BYTES = 512
"""More than struct timex has on any machine; all zero it asks and sets nothing (<sys/timex.h>)."""
_TIME_ERROR = 5
"""What ntp_adjtime(3) answers while no time server has set the clock: STA_UNSYNC, or an error of more than 16 s."""
_TIMESYNCD_HAS_SET_IT = Path("/run/systemd/timesync/synchronized")
"""Made by systemd-timesyncd (systemd-time-wait-sync.service(8)). For services that may not ask the kernel."""


def since_boot_s() -> float:
    """Those seconds included in which the machine slept, unlike time.monotonic (CLOCK_BOOTTIME)."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@dataclass(frozen=True, slots=True)
class Moment:
    """When something was, by both clocks. `synced` is None where nobody can say whether `at` is right.

    `boot_s` counts from the boot `boot_id`: within one boot the difference between two moments is always right.
    """

    at: datetime
    synced: bool | None = None
    boot_id: str | None = None
    boot_s: float | None = None


class Clock:
    """Wall time for rows; boot time, which no one can set, for ages."""

    def __init__(self) -> None:
        self.boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()

    def wall(self) -> float:
        return time.time()

    def boot(self) -> float:
        return since_boot_s()

    def synced(self) -> bool | None:
        """Whether a time server has set the wall clock, as the kernel knows it.

        `ProtectClock=yes` of a systemd unit forbids that question: then timesyncd's mark says yes, or nobody knows.
        """
        answer: int = _KERNEL.ntp_adjtime(ctypes.create_string_buffer(_TIMEX_BYTES))
        if answer < 0:
            return True if _TIMESYNCD_HAS_SET_IT.exists() else None
        return answer != _TIME_ERROR

    def now(self) -> datetime:
        return datetime.fromtimestamp(self.wall(), UTC)

    def moment(self) -> Moment:
        return Moment(self.now(), self.synced(), self.boot_id, self.boot())

    def age_s(self, boot_id: str, boot: float, wall: float) -> float:
        """Since then: by boot time within one boot, else by wall time, which is the best there is."""
        age_s = self.boot() - boot if boot_id == self.boot_id else self.wall() - wall
        return max(0.0, age_s) if math.isfinite(age_s) else 0.0
