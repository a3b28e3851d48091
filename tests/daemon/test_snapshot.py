"""Snapshots of a real core: journal, queue, uploader and providers."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

import pytest

from daemon.config import Config
from daemon.core import Core
from daemon.snapshot import DatabaseSnapshot, JournalSnapshot, QueueSnapshot, Snapshot, Snapshots, troubles
from daemon.watching import Watching
from pipeline.camera import Camera, CameraState, DetectorInput
from pipeline.camera_settings import CameraSettings
from pipeline.detector import Detector
from pipeline.events import EventOutcome
from pipeline.journal import JournalSettings, open_journal
from pipeline.journal_file import Ending
from pipeline.store import open_store
from providers.open import open_providers
from tests.daemon.snapshots import a_camera, a_provider, a_snapshot
from tests.pipeline.makers import an_event
from tests.store.sending import settings_for

NOBODY = "postgresql://lva@127.0.0.1:9/none"
MASKED = "masked"


class Box:
    """A core whose events a test makes, cameras that a test counts for, and snapshots of both."""

    def __init__(self, core: Core) -> None:
        self.core = core
        no_detector = cast(Detector, None)  # no camera is started
        self.watching = Watching(core.config, no_detector, core.intake, core.is_asked)
        self.refused = ""
        self.snapshots = Snapshots(
            core,
            self.watching,
            redact=lambda text: text.replace("canary", MASKED),
            log_lines_dropped=lambda: 3,
            configuration_refused=lambda: self.refused,
        )

    def add_camera(self, name: str) -> Camera:
        settings = CameraSettings.model_validate({"name": name, "url": f"rtsp://127.0.0.1:9/{name}"})
        camera = self.watching.cameras[name] = Camera(settings, DetectorInput(320))
        return camera

    async def look(self) -> Snapshot:
        await self.snapshots.refresh(at_once=True)
        return self.snapshots.now()


@asynccontextmanager
async def a_box(folder: Path, dsn: str = NOBODY) -> AsyncIterator[Box]:
    async with (
        open_journal(folder, JournalSettings()) as journal,
        open_store(settings_for(dsn, connect_timeout_s=2.0)) as store,
        open_providers(()) as chain,
    ):
        yield Box(Core(Config(site="test"), journal, store, chain, frozenset({"person"}), "detector"))


async def test_what_was_accepted_waits_and_ages_until_it_has_an_outcome(tmp_path: Path) -> None:
    async with a_box(tmp_path) as box:
        assert (await box.look()).queue == QueueSnapshot({"critical": 0, "high": 0, "medium": 0, "low": 0}, 0, 0.0)
        await box.core.intake.event(event := an_event())
        await box.core.intake.event(an_event())
        now = await box.look()
        assert (now.journal.waiting, now.journal.outbox, now.queue.waiting["medium"]) == (2, 2, 2)
        assert (await box.look()).queue.oldest_s > now.queue.oldest_s > 0
        await box.core.journal.lease([event.id])
        now = await box.look()
        assert (now.journal.waiting, now.journal.leased) == (1, 1)
        await box.core.journal.finish([Ending(event.id, EventOutcome.DONE, "")])
        assert (await box.look()).journal.leased == 0


async def test_a_database_that_is_away_is_down_for_as_long_as_rows_do_not_pass(tmp_path: Path, database: str) -> None:
    async with a_box(tmp_path) as box:
        assert (await box.look()).database.state == "untried"
        await box.core.intake.event(an_event())
        await box.core.uploader.flush()
        down = (await box.look()).database
        assert (down.state, down.trouble_class, down.failures) == ("down", "transient", 1)
        await box.core.uploader.flush()
        assert (await box.look()).database.down_s > down.down_s > 0
    async with a_box(tmp_path, database) as box:
        assert await box.core.uploader.flush()
        up = (await box.look()).database
        assert up == DatabaseSnapshot("up", "", "", 0.0, 0, 1, 0)


async def test_what_comes_from_outside_holds_no_secret(tmp_path: Path) -> None:
    async with a_box(tmp_path) as box:
        camera = box.add_camera("door")
        camera.stats.state, camera.stats.down_reason = CameraState.DOWN, "no way to canary"
        box.core.uploader.state.trouble = "password canary is wrong"
        box.refused = "cameras: canary"
        now = await box.look()
        assert "canary" not in str(now)
        assert str(now).count(MASKED) == 3


async def test_rates_are_those_of_the_last_seconds(tmp_path: Path) -> None:
    async with a_box(tmp_path) as box:
        camera = box.add_camera("yard")
        assert (await box.look()).cameras[0].camera_fps == 0
        for _ in range(2):
            await asyncio.sleep(0.05)
            camera.stats.frames_grabbed += 30
            camera.stats.frames_handed += 10
            yard = (await box.look()).cameras[0]
            assert yard.camera_fps == pytest.approx(3 * yard.process_fps)
            assert yard.skipped_fps == pytest.approx(2 * yard.process_fps)
            assert 0 < yard.process_fps <= 10 / 0.05
        box.add_camera("yard").stats.frames_grabbed = 5
        assert (await box.look()).cameras[0].camera_fps > 0


async def test_rows_are_not_counted_more_often_than_the_journal_can_spare(tmp_path: Path) -> None:
    async with a_box(tmp_path) as box:
        await box.look()
        box.snapshots._count_again_s = float("inf")
        await box.core.intake.event(an_event())
        await box.snapshots.refresh()
        assert box.snapshots.now().journal.waiting == 0
        assert (await box.look()).journal.waiting == 1


async def test_the_process_sees_itself(tmp_path: Path) -> None:
    async with a_box(tmp_path) as box:
        before = (await box.look()).process
        with (tmp_path / "one more").open("w"):
            now = await box.look()
        assert now.process.open_fds == before.open_fds + 1
        assert now.process.rss_bytes > 10_000_000
        assert now.process.threads > 1
        assert now.process.cpu_s > 0
        assert (now.log_lines_dropped, now.site) == (3, "test")


async def test_a_journal_that_failed_does_not_keep_anyone_from_looking(tmp_path: Path) -> None:
    async with a_box(tmp_path) as box:
        await box.core.intake.event(an_event())
        await box.look()
        await box.core.journal._do(lambda file: file.connection.execute("DROP TABLE events"))
        await box.snapshots.refresh(at_once=True)
        assert box.snapshots.now().journal.waiting == 1
        with pytest.raises(Exception, match="the journal failed"):
            await box.core.journal.failed


def test_troubles_are_what_a_person_should_look_at() -> None:
    assert list(troubles(a_snapshot())) == []
    everything = a_snapshot(
        cameras=(
            a_camera("yard"),
            a_camera("new", CameraState.CONNECTING),
            a_camera("clip", CameraState.ENDED),
            a_camera("door", CameraState.DOWN, reason="refused"),
            a_camera("gate", CameraState.BLACK),
        ),
        providers=(a_provider(), a_provider("cloud", "parked")),
        database=DatabaseSnapshot("down", "no answer", "transient", 9.0, 3, 0, 0),
        journal=JournalSnapshot(dead_letters=2),
        configuration_refused="sight: unknown key",
    )
    assert list(troubles(everything)) == [
        "camera door is down: refused",
        "camera gate is black",
        "provider cloud is parked",
        "the database is down: no answer",
        "2 rows were refused by the database: lva db dead-letters",
        "the changed configuration is not in use: sight: unknown key",
    ]
