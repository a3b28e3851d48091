"""Every number that Prometheus gets beside the stages' histograms: its name, what it means, and where it is read."""

import platform
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from daemon.snapshot import CameraSnapshot, Snapshot
from pipeline.camera import CameraState
from pipeline.events import EventKind, EventOutcome
from pipeline.sql_errors import ErrorClass
from providers.base import Failure
from providers.tally import STATES, ProviderStats

CAMERAS_MAX = 128
"""Values of the label `camera` at most; the cameras beyond are in the sums alone."""

Values = Iterable[tuple[tuple[str, ...], float]]


@dataclass(frozen=True, slots=True)
class Reading:
    """`values` gives the labels' values, in their order, with the number that belongs to them."""

    labels: tuple[str, ...]
    values: Callable[[Snapshot], Values]


@dataclass(frozen=True, slots=True)
class Series:
    kind: Literal["counter", "gauge"]
    name: str
    meaning: str
    reading: Reading


def one(read: Callable[[Snapshot], float]) -> Reading:
    return Reading((), lambda now: [((), read(now))])


def by(label: str, read: Callable[[Snapshot], Mapping[str, float]]) -> Reading:
    return Reading((label,), lambda now: [((key,), value) for key, value in read(now).items()])


def camera(read: Callable[[CameraSnapshot], float]) -> Reading:
    return Reading(("camera",), lambda now: [((one.name,), read(one)) for one in now.cameras[:CAMERAS_MAX]])


def camera_by(label: str, read: Callable[[CameraSnapshot], Mapping[str, float]]) -> Reading:
    def values(now: Snapshot) -> Values:
        for one in now.cameras[:CAMERAS_MAX]:
            yield from (((one.name, key), value) for key, value in read(one).items())

    return Reading(("camera", label), values)


def provider(read: Callable[[ProviderStats], float]) -> Reading:
    return Reading(("provider",), lambda now: [((one.name,), read(one)) for one in now.providers])


def provider_by(label: str, read: Callable[[ProviderStats], Mapping[str, float]]) -> Reading:
    def values(now: Snapshot) -> Values:
        for one in now.providers:
            yield from (((one.name, key), value) for key, value in read(one).items())

    return Reading(("provider", label), values)


def _build(now: Snapshot) -> Values:
    yield (now.version, platform.python_version()), 1.0


def _all(keys: Iterable[str], counts: Mapping[str, float]) -> dict[str, float]:
    """With those that are 0: what is there from the start can be seen to grow."""
    return {key: counts.get(key, 0) for key in keys}


def _events_dropped(now: Snapshot) -> dict[str, float]:
    return {**_all(("shed", "expired"), now.events.outcomes), "refused": now.events.refused}


def _is_up(camera: CameraSnapshot) -> bool:
    return camera.state is CameraState.UP


_PROCESS = (
    Series("gauge", "lva_build_info", "Always 1; what runs", Reading(("version", "python"), _build)),
    Series("gauge", "lva_uptime_seconds", "Since the daemon's start", one(lambda now: now.uptime_s)),
    Series(
        "gauge", "lva_process_resident_memory_bytes", "Of the daemon; each camera has a process of its own beside it",
        one(lambda now: now.process.rss_bytes),
    ),
    Series("gauge", "lva_process_open_fds", "Open file descriptors", one(lambda now: now.process.open_fds)),
    Series("gauge", "lva_process_threads", "Threads", one(lambda now: now.process.threads)),
    Series("counter", "lva_process_cpu_seconds_total", "Processor time used", one(lambda now: now.process.cpu_s)),
    Series(
        "counter", "lva_log_lines_dropped_total", "Lines of the log that are lost because nobody read them",
        one(lambda now: now.log_lines_dropped),
    ),
)  # fmt: skip

_CAMERAS = (
    Series("gauge", "lva_cameras", "Cameras that are watched", one(lambda now: len(now.cameras))),
    Series("gauge", "lva_cameras_up", "Those that give pictures", one(lambda now: sum(map(_is_up, now.cameras)))),
    Series("gauge", "lva_camera_up", "1 while it gives pictures", camera(_is_up)),
    Series(
        "gauge", "lva_camera_state", "1 for the state that it is in, 0 for the others",
        camera_by("state", lambda one: {state: one.state is state for state in CameraState}),
    ),
    Series(
        "gauge", "lva_camera_fps", "Pictures a second that come from it, over ten seconds",
        camera(lambda one: one.camera_fps),
    ),
    Series("gauge", "lva_process_fps", "Those of them that go to the detector", camera(lambda one: one.process_fps)),
    Series("gauge", "lva_skipped_fps", "Those of them that are left out", camera(lambda one: one.skipped_fps)),
    Series(
        "gauge", "lva_detection_fps", "Pictures a second through the detector, of all cameras",
        one(lambda now: sum(camera.process_fps for camera in now.cameras)),
    ),
    Series(
        "counter", "lva_camera_frames_grabbed_total", "Pictures that came from it", camera(lambda one: one.grabbed)
    ),
    Series(
        "counter", "lva_camera_frames_handed_total", "Those that went to the detector", camera(lambda one: one.handed)
    ),
    Series(
        "counter", "lva_camera_frames_dropped_total", "Those that were left out, and why",
        camera_by("cause", lambda one: one.dropped),
    ),
    Series(
        "counter", "lva_camera_restarts_total", "Times that its process had to be replaced",
        camera(lambda one: one.restarts),
    ),
)  # fmt: skip

_EVENTS = (
    Series(
        "counter", "lva_events_after_dedup_total", "Events that were accepted: they are on the disk",
        by("kind", lambda now: _all(EventKind, now.events.accepted)),
    ),
    Series(
        "counter", "lva_events_known_total", "Events of a recording that an earlier run has told already",
        one(lambda now: now.events.known),
    ),
    Series(
        "counter", "lva_events_suppressed_total", "What a rule's cooldown kept from being an event",
        by("kind", lambda now: _all(EventKind, now.events.suppressed)),
    ),
    Series(
        "counter", "lva_events_total", "Events that have ended, by how: done, degraded, failed, expired or shed",
        by("verdict", lambda now: _all(EventOutcome, now.events.outcomes)),
    ),
    Series(
        "counter", "lva_events_dropped_total",
        "Events that nobody was asked about: shed or expired, as rows, or refused, as there was no room even for a row",
        by("reason", _events_dropped),
    ),
    Series("counter", "lva_gaps_total", "Spans in which a camera was blind", one(lambda now: now.events.gaps)),
    Series(
        "gauge", "lva_queue_depth", "Events that wait for their turn", by("priority", lambda now: now.queue.waiting)
    ),
    Series(
        "gauge", "lva_queue_oldest_seconds", "Age of the oldest event without an outcome",
        one(lambda now: now.queue.oldest_s),
    ),
    Series(
        "gauge", "lva_queue_retrying", "Events that nobody could answer, and that will be asked about again",
        one(lambda now: now.queue.retrying),
    ),
    Series(
        "gauge", "lva_journal_events", "Events on the disk without an outcome: waiting, or leased to a worker",
        by("state", lambda now: {"waiting": now.journal.waiting, "leased": now.journal.leased}),
    ),
    Series(
        "gauge", "lva_journal_busy_seconds", "For how long the oldest commit has been under way",
        one(lambda now: now.journal.busy_s),
    ),
)  # fmt: skip

_DATABASE = (
    Series(
        "gauge", "lva_journal_outbox_rows", "Rows on the disk that the database does not have yet",
        one(lambda now: now.journal.outbox),
    ),
    Series(
        "gauge", "lva_journal_dead_letters", "Rows that the database refused, kept on the disk",
        one(lambda now: now.journal.dead_letters),
    ),
    Series("gauge", "lva_database_up", "0 while rows do not pass", one(lambda now: now.database.state != "down")),
    Series(
        "gauge", "lva_database_trouble", "1 for what is in the way: transient, or for a person to put right",
        by("class", lambda now: {kind: now.database.trouble_class == kind for kind in ErrorClass}),
    ),
    Series(
        "gauge", "lva_database_down_seconds", "For how long rows have not passed", one(lambda now: now.database.down_s)
    ),
    Series(
        "counter", "lva_rows_uploaded_total", "Rows that the database has confirmed",
        one(lambda now: now.database.uploaded),
    ),
    Series(
        "counter", "lva_rows_dead_lettered_total", "Rows that the database refused for their own sake",
        one(lambda now: now.database.dead_lettered),
    ),
)  # fmt: skip

_PROVIDERS = (
    Series(
        "gauge", "lva_provider_state", "1 for the state that it is in, 0 for the others",
        provider_by("state", lambda one: {state: one.state == state for state in STATES}),
    ),
    Series("gauge", "lva_vlm_in_flight", "Pictures that it is being asked about", provider(lambda one: one.asking)),
    Series("counter", "lva_vlm_asked_total", "Pictures that it was asked about", provider(lambda one: one.asked)),
    Series("counter", "lva_vlm_answered_total", "Those that it answered", provider(lambda one: one.answered)),
    Series(
        "counter", "lva_verification_failures_total", "Those that it did not answer, by the reasons that rows have too",
        provider_by("reason", lambda one: _all(Failure, one.failures)),
    ),
    Series("counter", "lva_vlm_retries_total", "Calls that were tried again", provider(lambda one: one.retries)),
    Series(
        "counter", "lva_vlm_tokens_total", "Tokens of questions and answers, as the server counts them",
        provider_by("direction", lambda one: {"in": one.tokens_in, "out": one.tokens_out}),
    ),
    Series(
        "counter", "lva_vlm_cost_usd_total", "Money, by the prices of the configuration",
        provider(lambda one: one.usd),
    ),
)  # fmt: skip

SERIES = (*_PROCESS, *_CAMERAS, *_EVENTS, *_DATABASE, *_PROVIDERS)
