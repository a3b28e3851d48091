"""The child's side of the shared slots: which are free, and the native picture behind each that is not."""

import mmap
import threading
from collections.abc import Callable

from pipeline.camera_link import ChildSettings, slot_view
from pipeline.letterbox import Picture

USUALLY_HELD = 2
"""Slots whose native picture is kept for the next frame: 6 MB each at 1080p."""

PATIENCE_S = 0.5
"""While waiting for a slot, progress is reported this often."""


class Slots:
    """Slots of the detector's pictures. One thread takes them, another gives them back."""

    def __init__(self, settings: ChildSettings) -> None:
        self._slot_bytes = settings.input_size.slot_bytes
        self._memory = mmap.mmap(settings.memory_fd, settings.slots * self._slot_bytes)
        self._free = set(range(settings.slots))
        self._changed = threading.Condition()
        self.natives: list[Picture | None] = [None] * settings.slots
        """Each slot's native picture; a freed one is written over by the next, so that none is allocated
        twice.
        """

    def take(self) -> int | None:
        """The lowest free slot, so that few are ever touched; None if there is none."""
        with self._changed:
            if not self._free:
                return None
            slot = min(self._free)
            self._free.remove(slot)
            return slot

    def wait(self, still_here: Callable[[], None]) -> int:
        """The lowest free slot, waiting for it; calls `still_here` now and then meanwhile."""
        while (slot := self.take()) is None:
            with self._changed:
                self._changed.wait_for(lambda: bool(self._free), PATIENCE_S)
            still_here()
        return slot

    def give_back(self, slot: int) -> None:
        """What a burst needed goes back to the system; what every frame needs is kept."""
        with self._changed:
            if slot >= USUALLY_HELD:
                self.natives[slot] = None
            self._free.add(slot)
            self._changed.notify()

    def view(self, slot: int, height: int, width: int) -> Picture:
        return slot_view(self._memory, slot, self._slot_bytes, height, width)
