"""What a tracker tells, and its settings. Apart from it, as its library is heavy and few need it."""

from dataclasses import dataclass, field

from pydantic import Field

from providers.base import Box, Detection
from providers.settings import Section


class TrackerSettings(Section):
    start_confidence: float = Field(0.7, gt=0, lt=1, description="A new object must be seen this surely once")
    keep_confidence: float = Field(0.6, gt=0, lt=1, description="Boxes below only continue an object already known")
    confirm_frames: int = Field(3, ge=1, le=100, description="Frames in a row before an object counts")
    lost_s: float = Field(2.0, gt=0, le=60, description="Unseen for this long, an object has left")
    min_iou: float = Field(0.1, gt=0, lt=1, description="Least overlap of an object from one frame to the next")


@dataclass(slots=True)
class Track:
    """One object that is being followed. Times ending in `_s` are seconds on the camera's stream clock.

    `label` is what most of its frames called it. Identities are unique for the life of the tracker.
    """

    id: int
    label: str
    first_seen_s: float
    last_seen_s: float
    last_active_s: float
    box: Box
    confidence: float
    votes: dict[str, int] = field(default_factory=dict)

    def saw(self, label: str, box: Box, confidence: float, stream_s: float, active_s: float) -> None:
        self.votes[label] = self.votes.get(label, 0) + 1
        self.label = max(self.votes, key=self.votes.__getitem__)
        self.box, self.confidence = box, confidence
        self.last_seen_s, self.last_active_s = stream_s, active_s

    def as_detection(self) -> Detection:
        return Detection(self.label, self.confidence, self.box, self.id)


@dataclass(frozen=True, slots=True)
class Tracked:
    """One frame's view: who is seen now, who is new, and who has been unseen for lost_s."""

    seen: tuple[Track, ...]
    appeared: tuple[Track, ...]
    left: tuple[Track, ...]
