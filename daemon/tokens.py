"""What must make progress, and how long each part may be at one thing."""

import asyncio
import math
from collections.abc import Iterator
from functools import partial

from daemon.core import Core
from daemon.watchdog import Token
from daemon.watching import Watching
from pipeline.detector import Detector
from pipeline.migrations import MIGRATION_TIMEOUT_S
from providers.settings import DetectionsSettings

JOURNAL_S = 20.0
"""A commit on the slowest disk; beyond, it hangs."""
DETECTOR_S = 60.0
"""A network that is compiled for a new shape on a slow box; beyond, the runtime or its driver hangs."""
UPLOAD_S = MIGRATION_TIMEOUT_S + 60.0
"""The longest that the uploader ever waits for one thing."""
CAMERA_S = 10.0
"""After the moment in which a silent camera process should have been killed."""
WORKER_SPARE_S = 60.0


def tokens(core: Core, watching: Watching, detector: Detector) -> Iterator[Token]:
    yield Token("journal", core.journal.oldest_command_s, JOURNAL_S)
    yield Token("detector", detector.oldest_job_s, DETECTOR_S)
    yield Token("uploader", core.uploader.progress.busy_s, UPLOAD_S)
    for index, worker in enumerate(core.workers):
        yield Token(f"worker {index}", worker.progress.busy_s, _worker_s(core))
    for name, camera in watching.cameras.items():
        yield Token(f"camera {name}", camera.overdue_s, CAMERA_S)
    for task in core.tasks:
        yield Token(f"task {task.get_name()}", partial(_gone_s, task), 0.0)


def _gone_s(task: asyncio.Task[object]) -> float:
    """A task that lives as long as the daemon has ended, and nobody was told."""
    return math.inf if task.done() else 0.0


def _worker_s(core: Core) -> float:
    """One batch at its longest: every provider takes its whole deadline for each picture, and all workers queue up
    at the same provider."""
    workers = core.config.workers
    pictures = workers.count * workers.batch_size
    asked = [one for one in core.config.providers if not isinstance(one, DetectionsSettings)]
    return WORKER_SPARE_S + sum(2 * one.timeout_s * math.ceil(pictures / one.pictures_at_once) for one in asked)
