"""What time it is, for the journal: wall time for rows, boot time for ages."""

import time
from datetime import UTC, datetime
from pathlib import Path


class Clock:
    """Wall time for rows; boot time, which no one can set, for ages."""

    def __init__(self) -> None:
        self.boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()

    def wall(self) -> float:
        return time.time()

    def boot(self) -> float:
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def now(self) -> datetime:
        return datetime.fromtimestamp(self.wall(), UTC)

    def age_s(self, boot_id: str, boot: float, wall: float) -> float:
        """Since then: by boot time within one boot, else by wall time, which is the best there is."""
        return max(0.0, self.boot() - boot if boot_id == self.boot_id else self.wall() - wall)
