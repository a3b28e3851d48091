"""How much memory a camera's process may take: one that leaks is replaced before it starves its neighbours."""

import resource
from pathlib import Path

from pipeline.camera_link import LossCause
from pipeline.camera_loss import SourceLostError

REPLACE_SHARE = 0.8
"""Above this share of its limit it ends by itself. The rest is for one large picture; beyond it, nothing is given."""

DATA_FIELD = 5
"""Of /proc/self/statm: private memory that can be written, in pages, which is what RLIMIT_DATA counts."""

PAGE_BYTES = resource.getpagesize()


class MemoryLimit:
    def __init__(self, limit_mb: int) -> None:
        self._limit_mb = limit_mb

    def impose(self) -> None:
        """From now on the system gives this process no more, and leaves no core file: that would hold pictures."""
        limit_bytes = self._limit_mb << 20
        resource.setrlimit(resource.RLIMIT_DATA, (limit_bytes, limit_bytes))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    def check(self) -> None:
        """Raises SourceLostError when it has grown too large to go on."""
        taken_mb = int(Path("/proc/self/statm").read_text().split()[DATA_FIELD]) * PAGE_BYTES >> 20
        if taken_mb > REPLACE_SHARE * self._limit_mb:
            reason = f"its process has grown to {taken_mb} of {self._limit_mb} MB, and is replaced"
            raise SourceLostError(LossCause.MEMORY, reason)
