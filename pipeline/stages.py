"""How long each stage of an event's way takes, as histograms. It measures, and decides nothing."""

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

from prometheus_client import CollectorRegistry, Histogram

from pipeline.events import Event, Priority

QUICK_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
LONG_S = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 3600.0)

ON_THEIR_WAY_MAX = 20_000
"""Events whose outcome the database does not have yet, remembered for their whole time; of more, the newest."""

CLOCK_WAS_SET_S = 3600.0
"""No frame takes this long to become an event: the wall clock was set meanwhile, and the time says nothing."""


@dataclass(frozen=True, slots=True)
class Stage:
    """A histogram of seconds, by its labels."""

    name: str
    meaning: str
    buckets_s: tuple[float, ...]
    labels: tuple[str, ...] = ()


INFERENCE = Stage(
    "lva_detector_inference_speed_seconds", "From a frame's hand-over to the detector to what was seen in it", QUICK_S
)
CAPTURE = Stage(
    "lva_capture_to_accept_seconds", "From the picture that is asked about to its event on the disk", LONG_S
)
COMMIT = Stage("lva_journal_commit_seconds", "To put an event on the disk, waiting for its commit included", QUICK_S)
WAIT = Stage("lva_queue_wait_seconds", "From the disk to the first time that somebody is asked", LONG_S, ("priority",))
TURN = Stage(
    "lva_capacity_wait_seconds", "A picture's wait until its provider has a hand free for it", LONG_S, ("provider",)
)
CALL = Stage(
    "lva_vlm_duration_seconds", "A provider's answer to all questions about one picture", LONG_S, ("provider",)
)
UPLOAD = Stage("lva_upload_batch_seconds", "One batch of rows into the database", QUICK_S)
WHOLE_WAY = Stage(
    "lva_e2e_duration_seconds",
    "From the picture to the database's word that it has the outcome; of events that are asked about",
    LONG_S,
    ("priority",),
)
STAGES = (INFERENCE, CAPTURE, COMMIT, WAIT, TURN, CALL, UPLOAD, WHOLE_WAY)


class Stages:
    """The histograms, in a registry of their own. Each measurement takes a few microseconds and never fails."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.registry = CollectorRegistry(auto_describe=False)
        self._clock = clock
        inference, capture, commit, wait, turn, call, upload, whole_way = map(self._histogram, STAGES)
        self._inference, self._capture, self._commit, self._upload = inference, capture, commit, upload
        self._wait, self._turn, self._call, self._whole_way = wait, turn, call, whole_way
        for priority in Priority:  # what is there from the start can be seen to grow
            self._wait.labels(priority.word)
            self._whole_way.labels(priority.word)
        self._captured: OrderedDict[UUID, tuple[Priority, float]] = OrderedDict()

    def inferred(self, seconds: float) -> None:
        self._inference.observe(seconds)

    def accepted(self, event: Event, commit_s: float, *, asked: bool) -> None:
        """An event is on the disk; `asked` where its whole way goes through a provider."""
        self._commit.observe(commit_s)
        since_capture_s = (datetime.now(UTC) - event.captured_at).total_seconds()
        if not event.jpeg or not 0 <= since_capture_s < CLOCK_WAS_SET_S:
            return
        self._capture.observe(since_capture_s)
        if asked:
            self._captured[event.id] = event.priority, self._clock() - since_capture_s
            if len(self._captured) > ON_THEIR_WAY_MAX:
                self._captured.popitem(last=False)

    def waited(self, priority: Priority, seconds: float) -> None:
        self._wait.labels(priority.word).observe(seconds)

    def called(self, provider: str, waited_s: float, took_s: float) -> None:
        """A provider gave an outcome, good or bad, after a wait for its turn."""
        self._turn.labels(provider).observe(waited_s)
        self._call.labels(provider).observe(took_s)

    def uploaded(self, seconds: float) -> None:
        self._upload.observe(seconds)

    def stored(self, event_id: UUID) -> None:
        """The database has the event's outcome. Nothing happens for one of an earlier run."""
        if remembered := self._captured.pop(event_id, None):
            priority, captured_s = remembered
            self._whole_way.labels(priority.word).observe(self._clock() - captured_s)

    def _histogram(self, stage: Stage) -> Histogram:
        return Histogram(stage.name, stage.meaning, stage.labels, registry=self.registry, buckets=stage.buckets_s)
