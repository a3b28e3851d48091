"""One connection of a camera process: from the first picture until the source ends or is lost."""

import json
import time
from collections import Counter
from collections.abc import Callable
from functools import lru_cache

from pipeline.camera_link import FRAME, ChildSettings, Health, LossCause, Message, SourceKind
from pipeline.camera_pace import FilePace, LivePace, Pace
from pipeline.camera_slots import Slots
from pipeline.camera_source import FALLBACK_FPS, SourceLostError, open_source
from pipeline.letterbox import Letterbox, Picture, draw, fit, smallest_input
from pipeline.motion import HealthCheck, MotionGate, Thumbnail, thumbnail

REPORT_EVERY_S = 0.5

Send = Callable[[Message, bytes], None]


class Reports:
    """Tells the parent twice a second what happened since the last time. No totals: any child may die."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._sent_s = time.monotonic()
        self.grabbed = 0
        self._good_at = 0.0
        self.dropped: Counter[str] = Counter()
        self.health = Health.OK

    def count_grab(self) -> None:
        """A frame came; with nothing wrong with the picture, that was the last good one."""
        self.grabbed += 1
        if self.health is Health.OK:
            self._good_at = time.time()

    def still_here(self) -> None:
        """Called at every step; sends at most twice a second."""
        if time.monotonic() - self._sent_s >= REPORT_EVERY_S:
            self.flush()

    def flush(self) -> None:
        now_s = time.monotonic()
        counts = {"grabbed": self.grabbed, "dropped": self.dropped}
        report = counts | {"good_at": self._good_at, "health": self.health}
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

    def __init__(self, settings: ChildSettings, slots: Slots, send: Send, seq: int) -> None:
        self._settings, self._slots, self._send = settings, slots, send
        self._reports = Reports(send)
        self._gate = MotionGate(settings.motion, settings.still_refresh_s)
        self._health = HealthCheck(settings.frozen_after_s)
        self._live = settings.kind is not SourceKind.FILE
        self._looked_s = self._skipped_s = 0.0
        self._started_s = time.monotonic()
        self._announced = False
        self.seq = seq

    def run(self) -> None:
        """Blocks until a file ends. Raises SourceLostError."""
        self._source = open_source(self._settings)
        try:
            if not self._source.grab():
                raise SourceLostError(LossCause.UNSUPPORTED, "not one picture in it")
            self._follow()
        finally:
            self._source.close()
            self._reports.flush()

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
        self._source.close()
        self._source = open_source(self._settings)
        return self._source.grab()

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
        cause = self._fill(slot, stream_s, captured_at)
        if cause:
            self._reports.dropped[cause] += 1
            self._slots.give_back(slot)

    def _fill(self, slot: int, stream_s: float, captured_at: float) -> str:
        """Decode and draw into the slot and hand it over; or else the cause of the drop."""
        native = self._source.retrieve(self._slots.natives[slot])
        if native is None:
            return "corrupt"
        self._slots.natives[slot] = native
        height, width = native.shape[:2]
        if not self._announced:
            self._announce(width, height)
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

    def _judge(self, picture: Picture, stream_s: float) -> tuple[float, str]:
        """The picture's motion, and why it isn't worth handing over, if it isn't."""
        since_s, self._looked_s = stream_s - self._looked_s, stream_s
        if not (self._live or self._settings.motion):
            return 1.0, ""
        small = thumbnail(picture)
        healthy = not self._live or self._health_now(picture, small, stream_s) is Health.OK
        look = self._gate.look(small, stream_s)
        if healthy and look.handed:
            return look.motion, ""
        self._skipped_s += since_s
        return look.motion, "still" if healthy else str(self._reports.health)

    def _health_now(self, picture: Picture, small: Thumbnail, stream_s: float) -> Health:
        health = self._health.look(picture, small, stream_s)
        if health is not self._reports.health:
            self._reports.health = health
            self._reports.flush()
        return health
