"""Whether a picture is worth a detection: is anything moving, and is it a picture at all."""

import zlib
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.camera_link import Health
from pipeline.letterbox import Picture

Thumbnail = NDArray[np.uint8]
"""Height × width, grey."""

SHRINK = 4
"""Cells of 4 × 4 input pixels: averaging hides the noise, and the smallest thing a detector finds still fills
several.
"""

CELL_CHANGED = 12
"""Grey levels (of 255) by which a cell must differ."""

MOVING_SHARE = 0.0007
"""Share of changed cells that is motion: about 4 of a 416 × 234 picture."""

MOTION_HOLD_S = 1.0
"""Frames go on for this long after the last motion, so that what has just stopped is seen at rest."""

BLACK_LEVEL = 20
"""No cell is brighter: a covered lens, or no signal."""

BLANK_SPREAD = 4
"""All cells alike within this: the plain grey or green of a decoder without a key frame."""

BLACK_AFTER_S = 2.0
FROZEN_CHECK_S = 1.0


def thumbnail(picture: Picture) -> Thumbnail:
    """The picture in grey cells."""
    height, width = picture.shape[:2]
    small = cv2.resize(picture, (max(1, width // SHRINK), max(1, height // SHRINK)), interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.cvtColor(small, cv2.COLOR_BGR2GRAY), np.uint8)


@dataclass(frozen=True, slots=True)
class Look:
    """`motion` is the share of cells that differ from the last frame that was handed over, 0..1."""

    motion: float
    handed: bool


class MotionGate:
    """Lets frames with motion through, and one now and then of a still scene.

    Each picture is compared with the last one that passed, not with its neighbour: what creeps adds up and is
    seen.
    """

    def __init__(self, enabled: bool, refresh_s: float) -> None:
        self._enabled, self._refresh_s = enabled, refresh_s
        self._reference: Thumbnail | None = None
        self._moved_s = self._handed_s = 0.0

    def look(self, small: Thumbnail, stream_s: float) -> Look:
        """Decide about one picture, in the order of the stream."""
        motion = self._share_changed(small)
        if motion >= MOVING_SHARE:
            self._moved_s = stream_s
        holds = stream_s - self._moved_s < MOTION_HOLD_S
        handed = not self._enabled or holds or stream_s - self._handed_s >= self._refresh_s
        if handed:
            self._reference, self._handed_s = small, stream_s
        return Look(motion, handed)

    def _share_changed(self, small: Thumbnail) -> float:
        if self._reference is None or self._reference.shape != small.shape:
            return 1.0
        difference = cv2.absdiff(small, self._reference)
        changed = cv2.threshold(difference, CELL_CHANGED, 255, cv2.THRESH_BINARY)[1]
        return cv2.countNonZero(changed) / small.size


class HealthCheck:
    """Tells a picture from a frozen or a black one. Frozen means: not one pixel has changed for
    `frozen_after_s`.
    """

    def __init__(self, frozen_after_s: float) -> None:
        self._frozen_after_s = frozen_after_s
        self._checksum, self._checked_s, self._changed_s, self._bright_s = 0, -FROZEN_CHECK_S, 0.0, 0.0

    @property
    def well_s(self) -> float:
        """When it was last seen that there is a picture, and that it changes."""
        return min(self._bright_s, self._changed_s)

    def look(self, picture: Picture, small: Thumbnail, stream_s: float) -> Health:
        low, high, _, _ = cv2.minMaxLoc(small)
        if high > BLACK_LEVEL and high - low > BLANK_SPREAD:
            self._bright_s = stream_s
        if stream_s - self._checked_s >= FROZEN_CHECK_S:
            self._compare(picture, stream_s)
        if stream_s - self._bright_s >= BLACK_AFTER_S:
            return Health.BLACK
        frozen = stream_s - self._changed_s >= self._frozen_after_s
        return Health.FROZEN if frozen else Health.OK

    def _compare(self, picture: Picture, stream_s: float) -> None:
        checksum = zlib.crc32(picture.tobytes())
        if checksum != self._checksum:
            self._changed_s = stream_s
        self._checksum, self._checked_s = checksum, stream_s
