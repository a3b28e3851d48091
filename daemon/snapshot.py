"""How everything is at one moment: what the log's summary, STATUS, metrics and `lva status` all tell."""

import os
import resource
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version as version_of
from pathlib import Path

from daemon.core import Core
from daemon.watching import Watching
from pipeline.camera import Camera, CameraState
from pipeline.journal_schema import JournalError
from providers.tally import ProviderStats

RATES_OVER_S = 10.0
COUNTING_SHARE = 0.01
"""Rows are counted by the journal's thread, which has better things to do: no more than this share of its time."""

VERSION = version_of("live-vision-analyzer")
_PAGE_BYTES = resource.getpagesize()
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class CameraSnapshot:
    """Counters since the start; rates in pictures a second, over the last seconds. `down_s` is 0 while it is not."""

    name: str
    state: CameraState
    grabbed: int
    handed: int
    dropped: Mapping[str, int]
    restarts: int
    camera_fps: float
    process_fps: float
    skipped_fps: float
    down_s: float
    reason: str


@dataclass(frozen=True, slots=True)
class EventsSnapshot:
    """Counters since the start, by kind or by outcome."""

    accepted: Mapping[str, int]
    known: int
    outcomes: Mapping[str, int]
    refused: int
    gaps: int
    suppressed: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class QueueSnapshot:
    """How many events wait for their turn, by priority; how many for a provider to come back; since when the first."""

    waiting: Mapping[str, int]
    retrying: int
    oldest_s: float


@dataclass(frozen=True, slots=True)
class JournalSnapshot:
    """What is on the disk. `busy_s` is for how long its thread has been at one thing."""

    waiting: int = 0
    leased: int = 0
    outbox: int = 0
    dead_letters: int = 0
    busy_s: float = 0.0


@dataclass(frozen=True, slots=True)
class DatabaseSnapshot:
    """`state` is untried before the first row, then up or down. `trouble` is empty unless it is down."""

    state: str
    trouble: str
    trouble_class: str
    down_s: float
    failures: int
    uploaded: int
    dead_lettered: int


@dataclass(frozen=True, slots=True)
class ProcessSnapshot:
    """This process alone: the cameras' processes are their own."""

    rss_bytes: int = 0
    open_fds: int = 0
    threads: int = 0
    cpu_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Snapshot:
    site: str
    version: str
    uptime_s: float
    cameras: tuple[CameraSnapshot, ...]
    events: EventsSnapshot
    queue: QueueSnapshot
    journal: JournalSnapshot
    database: DatabaseSnapshot
    providers: tuple[ProviderStats, ...]
    process: ProcessSnapshot
    log_lines_dropped: int
    configuration_refused: str


class Snapshots:
    """Reads every counter and owns none. What takes a while is read by `refresh`, so that `now` never waits."""

    def __init__(
        self,
        core: Core,
        watching: Watching,
        *,
        redact: Callable[[str], str],
        log_lines_dropped: Callable[[], int],
        configuration_refused: Callable[[], str],
    ) -> None:
        """`redact` takes secrets out of texts that came from outside. The other two are asked each time."""
        self._core = core
        self._watching = watching
        self._redact = redact
        self._log_lines_dropped = log_lines_dropped
        self._configuration_refused = configuration_refused
        self._started_s = _boot_s()
        self._journal: dict[str, int] = {}
        self._oldest_s = 0.0
        self._count_again_s = 0.0
        self._process = ProcessSnapshot()
        self._frames: deque[tuple[float, dict[str, tuple[int, int]]]] = deque()

    async def refresh(self, *, at_once: bool = False) -> None:
        """Count what is in the journal, if that was not done lately, or `at_once`; look at this process and at the
        frames. A journal that fails ends the daemon by another way, and is no concern of this one."""
        with suppress(JournalError):
            await self._look_at_journal(at_once)
        self._process = process_now(self._process)
        self._note_frames()

    def now(self) -> Snapshot:
        core = self._core
        return Snapshot(
            site=core.config.site,
            version=VERSION,
            uptime_s=_boot_s() - self._started_s,
            cameras=tuple(self._camera(name, camera) for name, camera in self._watching.cameras.items()),
            events=self._events(),
            queue=QueueSnapshot(core.queue.depth(), len(core.retries), self._oldest_s),
            journal=JournalSnapshot(**self._journal, busy_s=core.journal.oldest_command_s()),
            database=self._database(),
            providers=core.chain.stats(),
            process=self._process,
            log_lines_dropped=self._log_lines_dropped(),
            configuration_refused=self._redact(self._configuration_refused()),
        )

    async def _look_at_journal(self, at_once: bool) -> None:
        self._oldest_s = await self._core.journal.oldest_s()
        began_s = time.monotonic()
        if at_once or began_s >= self._count_again_s:
            self._journal = await self._core.journal.counts()
            ended_s = time.monotonic()
            self._count_again_s = ended_s + (ended_s - began_s) / COUNTING_SHARE

    def _note_frames(self) -> None:
        now_s = time.monotonic()
        counted = {
            name: (camera.stats.frames_grabbed, camera.stats.frames_handed)
            for name, camera in self._watching.cameras.items()
        }
        self._frames.append((now_s, counted))
        while now_s - self._frames[0][0] > RATES_OVER_S:
            self._frames.popleft()

    def _rates(self, name: str) -> tuple[float, float]:
        """Frames grabbed and handed on, a second. A camera that was set up anew counts from zero again."""
        samples = [(at_s, counted[name]) for at_s, counted in self._frames if name in counted]
        if len(samples) < 2:
            return 0.0, 0.0
        (first_s, first), (last_s, last) = samples[0], samples[-1]
        grabbed, handed = (
            after - before if after >= before else after for before, after in zip(first, last, strict=True)
        )
        return grabbed / (last_s - first_s), handed / (last_s - first_s)

    def _camera(self, name: str, camera: Camera) -> CameraSnapshot:
        stats = camera.stats
        grabbed_per_s, handed_per_s = self._rates(name)
        return CameraSnapshot(
            name=name,
            state=stats.state,
            grabbed=stats.frames_grabbed,
            handed=stats.frames_handed,
            dropped=dict(stats.dropped_by_cause),
            restarts=stats.restarts,
            camera_fps=grabbed_per_s,
            process_fps=handed_per_s,
            skipped_fps=max(0.0, grabbed_per_s - handed_per_s),
            down_s=_boot_s() - stats.down_since_s if stats.down_reason else 0.0,
            reason=self._redact(stats.down_reason),
        )

    def _events(self) -> EventsSnapshot:
        intake = self._core.intake.tally
        suppressed: dict[str, int] = {}
        for triggers in self._watching.triggers.values():
            for kind, count in triggers.suppressed.items():
                suppressed[kind] = suppressed.get(kind, 0) + count
        return EventsSnapshot(
            accepted=dict(intake.accepted),
            known=intake.known,
            outcomes=dict(self._core.tally.outcomes + intake.ended),
            refused=intake.refused,
            gaps=intake.gaps,
            suppressed=suppressed,
        )

    def _database(self) -> DatabaseSnapshot:
        upload = self._core.uploader.state
        state = "down" if upload.trouble else "up" if upload.uploaded else "untried"
        return DatabaseSnapshot(
            state=state,
            trouble=self._redact(upload.trouble),
            trouble_class=upload.trouble_class or "",
            down_s=_boot_s() - upload.trouble_since_s if upload.trouble else 0.0,
            failures=upload.failures,
            uploaded=upload.uploaded,
            dead_lettered=upload.dead_lettered,
        )


def _boot_s() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def process_now(before: ProcessSnapshot) -> ProcessSnapshot:
    """As before where it can't be read: a process without a free file descriptor can't even look at itself."""
    try:
        facts = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        open_fds = len(os.listdir("/proc/self/fd"))
    except OSError:
        return before
    user, system, threads, rss_pages = (int(facts[index]) for index in (11, 12, 17, 21))
    return ProcessSnapshot(rss_pages * _PAGE_BYTES, open_fds - 1, threads, (user + system) / _TICKS_PER_S)


def troubles(snapshot: Snapshot) -> Iterator[str]:
    """Whatever a person should look at, one line each."""
    for camera in snapshot.cameras:
        if camera.state not in (CameraState.UP, CameraState.CONNECTING, CameraState.ENDED):
            yield f"camera {camera.name} is {camera.state}" + (f": {camera.reason}" if camera.reason else "")
    for provider in snapshot.providers:
        if provider.state != "up":
            yield f"provider {provider.name} is {provider.state}"
    if snapshot.database.state == "down":
        yield f"the database is down: {snapshot.database.trouble}"
    if letters := snapshot.journal.dead_letters:
        yield f"{letters} row{'s were' if letters > 1 else ' was'} refused by the database: lva db dead-letters"
    if snapshot.configuration_refused:
        yield f"the changed configuration is not in use: {snapshot.configuration_refused}"
