"""One connection of a camera process: from the first picture until the source ends or is lost."""

import json
import time
from collections import Counter
from collections.abc import Callable
from functools import lru_cache

from pipeline.camera_link import FRAME, ChildSettings, Health, LossCause, Message, SourceKind
from pipeline.camera_log import FFmpegLog
from pipeline.camera_loss import SourceLostError
from pipeline.camera_memory import MemoryLimit
from pipeline.camera_pace import FilePace, LivePace, Pace
from pipeline.camera_slots import Slots
from pipeline.camera_source import FALLBACK_FPS, UnreadableError, open_source
from pipeline.letterbox import Letterbox, Picture, draw, fit, smallest_input
from pipeline.motion import HealthCheck, MotionGate, Thumbnail, thumbnail

REPORT_EVERY_S = 0.5

DAMAGED_AFTER_S = 2.0
"""A damaged picture is left out as long as whole ones come. A camera that sends none for this long is looked at as
it is: better a smeared picture than none."""

LOOKED_AT = frozenset({Health.OK, Health.DAMAGED})

Send = Callable[[Message, bytes], None]


class Reports:
    """Tells the parent twice a second what happened since the last time. No totals: any child may die."""

    def __init__(self, send: Send, memory: MemoryLimit) -> None:
        self._send, self._memory = send, memory
        self._sent_s = time.monotonic()
        self.grabbed = 0
        self._good_at = 0.0
        self.dropped: Counter[str] = Counter()
        self.health, self.unwell_since = Health.OK, 0.0

    def count_grab(self) -> None:
        """A frame came; with nothing wrong with the picture, that was the last good one."""
        self.grabbed += 1
        if self.health is Health.OK:
            self._good_at = time.time()

    def still_here(self) -> None:
        """Called at every step; sends at most twice a second. Raises SourceLostError when the process is too large."""
        if time.monotonic() - self._sent_s >= REPORT_EVERY_S:
            self.flush()
            self._memory.check()

    def flush(self) -> None:
        now_s = time.monotonic()
        counts = {"grabbed": self.grabbed, "dropped": self.dropped}
        report = counts | {"good_at": self._good_at, "health": self.health, "unwell_since": self.unwell_since}
        self._send(Message.STATUS, json.dumps(report).encode())
        self._sent_s, self.grabbed = now_s, 0
        self.dropped.clear()


@lru_cache(maxsize=16)
def letterbox_for(width: int, height: int, size_px: int, fixed: tuple[int, int] | None) -> Letterbox:
    """Where a picture of this size goes."""
    input_height, input_width = fixed or smallest_input(width, height, size_px)
    return fit(width, height, input_height, input_width)


class Feed:
    """Grabs, samples, judges and hands over. `seq` goes on from one connection to the next."""

    def __init__(
        self, settings: ChildSettings, slots: Slots, send: Send, log: FFmpegLog, memory: MemoryLimit, seq: int
    ) -> None:
        self._settings, self._slots, self._send, self._log = settings, slots, send, log
        self._reports = Reports(send, memory)
        self._gate = MotionGate(settings.motion, settings.still_refresh_s)
        self._health = HealthCheck(settings.frozen_after_s)
        self._live = settings.kind is not SourceKind.FILE
        self._looked_s = self._skipped_s = self._read_s = self._whole_s = 0.0
        self._started_s = time.monotonic()
        self._announced = False
        self._flaws: set[str] = set()
        self.seq = seq

    def run(self) -> None:
        """Blocks until a file ends. Raises SourceLostError."""
        self._open()
        try:
            self._follow()
            self._require_one()
        finally:
            self._source.close()
            self._reports.flush()

    def _open(self) -> None:
        self._source = open_source(self._settings, self._log)
        if not self._source.grab():
            self._source.close()
            raise SourceLostError(LossCause.UNSUPPORTED, "not one picture in it")

    def _require_one(self) -> None:
        """A file in which nothing could be read was not watched to its end."""
        if self._flaws and not self._announced:
            flaws = ", ".join(sorted(self._flaws))
            raise SourceLostError(LossCause.UNSUPPORTED, f"not one picture in it can be read: {flaws}")

    def _follow(self) -> None:
        pace = self._pace()
        while True:
            self._reports.count_grab()
            if pace.used():
                self._sample(pace.stream_s)
            self._reports.still_here()
            if not self._grab():
                return

    def _announce(self, width: int, height: int) -> None:
        took_s = round(time.monotonic() - self._started_s, 4)
        opened = {"codec": self._source.codec, "width": width, "height": height, "fps": self._source.fps}
        self._send(Message.OPENED, json.dumps(opened | {"time_to_first_frame_s": took_s}).encode())
        self._announced = True

    def _grab(self) -> bool:
        if self._source.grab():
            return True
        if not self._settings.loop:
            return False
        self._require_one()
        self._source.close()
        self._open()
        return True

    def _pace(self) -> Pace:
        if self._live:
            return LivePace(self._settings.detect_fps)
        fps = self._source.fps or FALLBACK_FPS
        return FilePace(fps, self._settings.detect_fps, not self._settings.full_pace, self._reports.still_here)

    def _sample(self, stream_s: float) -> None:
        captured_at = time.time()
        slot = self._slots.wait(self._reports.still_here) if self._settings.full_pace else self._slots.take()
        if slot is None:
            self._reports.dropped["no_slot"] += 1
            return
        try:
            cause = self._fill(slot, stream_s, captured_at)
        except UnreadableError as flaw:
            cause = str(flaw)
            self._flaws.add(cause)
            self._require_any(stream_s)
        if cause:
            self._reports.dropped[cause] += 1
            self._slots.give_back(slot)

    def _fill(self, slot: int, stream_s: float, captured_at: float) -> str:
        """Decode and draw into the slot and hand it over; or else the cause of the drop. Raises UnreadableError."""
        native = self._source.retrieve(self._slots.natives[slot])
        self._read_s = stream_s
        self._slots.natives[slot] = native
        height, width = native.shape[:2]
        if not self._announced:
            self._announce(width, height)
        if self._is_damaged(stream_s):
            return "corrupt"
        box = letterbox_for(width, height, self._settings.input_size.size_px, self._settings.input_size.fixed)
        picture = self._slots.view(slot, box.input_height, box.input_width)
        draw(native, box, picture)
        inside = picture[box.top : box.top + box.drawn_height, box.left : box.left + box.drawn_width]
        motion, cause = self._judge(inside, stream_s)
        if not cause:
            times = captured_at, stream_s, stream_s - self._skipped_s
            sizes = width, height, box.input_height, box.input_width
            self._send(Message.FRAME, FRAME.pack(self.seq, slot, *times, motion, *sizes))
            self.seq += 1
        return cause

    def _require_any(self, stream_s: float) -> None:
        """A camera that sends only what can't be read might as well send nothing."""
        if self._live and stream_s - self._read_s > self._settings.read_timeout_s:
            reason = f"no picture that can be read for {self._settings.read_timeout_s:g} s"
            raise SourceLostError(LossCause.STALLED, reason)

    def _is_damaged(self, stream_s: float) -> bool:
        """Whether the decoder complained, and there are better ones."""
        if not self._source.damaged:
            self._whole_s = stream_s
            return False
        return stream_s - self._whole_s < DAMAGED_AFTER_S

    def _judge(self, picture: Picture, stream_s: float) -> tuple[float, str]:
        """The picture's motion, and why it isn't worth handing over, if it isn't."""
        since_s, self._looked_s = stream_s - self._looked_s, stream_s
        if not (self._live or self._settings.motion):
            return 1.0, ""
        small = thumbnail(picture)
        healthy = not self._live or self._health_now(picture, small, stream_s) in LOOKED_AT
        look = self._gate.look(small, stream_s)
        if healthy and look.handed:
            return look.motion, ""
        self._skipped_s += since_s
        return look.motion, "still" if healthy else str(self._reports.health)

    def _health_now(self, picture: Picture, small: Thumbnail, stream_s: float) -> Health:
        health = self._health.look(picture, small, stream_s)
        if health is Health.OK and stream_s - self._whole_s >= DAMAGED_AFTER_S:
            health = Health.DAMAGED
        if health is not self._reports.health:
            self._reports.health = health
            self._reports.unwell_since = time.time() - (stream_s - self._health.well_s)
            self._reports.flush()
        return health
