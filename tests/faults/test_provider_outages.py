"""Cases 42 and 43: nobody can be asked for hours; a model server dies of a picture."""

import asyncio
import hashlib
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest

from pipeline.events import Event, Priority
from tests.faults.answering import HOUR_S, Answering, answering, judged
from tests.faults.hurry import HastyClock, HastyLoop
from tests.faults.minting import an_event
from tests.faults.provider import FakeProvider, names_the_event

ROOT = Path(__file__).parents[2]
SLOW_ENOUGH = {"connect_timeout_s": 60, "timeout_s": 600}
"""Deadlines that accelerated time leaves some real milliseconds of."""


def events_of_each_class(count: int, clock: HastyClock) -> list[Event]:
    return [an_event("test", each, clock.now(), 500, is_asked=True) for each in Priority for _ in range(count)]


async def nobody_there(database: str, folder: Path, clock: HastyClock, hour_s: float, **sections: object) -> None:
    """Two providers that are down for a little more than six hours, of whatever length, then back."""
    async with FakeProvider(names_the_event) as server:
        address = {"kind": "openai", "base_url": server.url + "/v1", "model": "fake"} | SLOW_ENOUGH
        providers = [address | {"name": "first"}, address | {"name": "second"}]
        async with answering(database, folder, providers, clock, **sections) as box:
            await server.stop()
            early = events_of_each_class(5, clock)
            await box.hand_in(*early)
            await asyncio.sleep(5 * hour_s)
            late = events_of_each_class(5, clock)
            await box.hand_in(*late)
            await asyncio.sleep(1.4 * hour_s)
            assert Counter((await box.outcomes()).values()) == {"expired": 15}
            await server.start()
            await box.until_ended(within_s=HOUR_S)
            ended = await box.outcomes()
    expired = {event.id for event in early if event.priority >= Priority.MEDIUM}
    expired |= {event.id for event in late if event.priority is Priority.LOW}
    for event in (*early, *late):
        assert ended[str(event.id)] == ("expired" if event.id in expired else "done"), event.priority


def run_nobody_there(database: str, folder: Path, rate: float, hour_s: float, **sections: object) -> None:
    with asyncio.Runner(loop_factory=partial(HastyLoop, rate)) as runner:
        runner.run(nobody_there(database, folder, HastyClock(rate), hour_s, **sections))
    verdict = asyncio.run(judged(database, folder))
    assert (verdict.accepted, verdict.outcomes) == (40, {"expired": 15, "done": 25})


@pytest.mark.faults
def test_in_six_hours_without_a_provider_work_waits_by_its_class_and_what_is_late_is_written(
    database: str, tmp_path: Path
) -> None:
    """Case 42. With the default patience: an hour for low, six for medium, a day for high."""
    run_nobody_there(database, tmp_path, 2400, HOUR_S)


def test_while_nobody_can_be_asked_work_waits_by_its_class_and_what_is_late_is_written(
    database: str, tmp_path: Path
) -> None:
    """Case 42. With a tenth of the default patience, and a tenth of the time."""
    hour_s = HOUR_S / 10
    ttl_s = {"low": hour_s, "medium": 6 * hour_s, "high": 24 * hour_s, "critical": 168 * hour_s}
    run_nobody_there(database, tmp_path, 600, hour_s, queue={"ttl_s": ttl_s})


class Undying:
    """Starts the server anew each time it has died, and counts how often it has."""

    def __init__(self, port: int, deadly: bytes) -> None:
        self._argv = [sys.executable, "-m", "tests.faults.mortal", str(port), hashlib.sha256(deadly).hexdigest()]
        self.deaths = 0
        self._server: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        self._server = await asyncio.create_subprocess_exec(*self._argv, cwd=ROOT, stdout=subprocess.PIPE)
        assert self._server.stdout is not None
        assert await self._server.stdout.readline() == b"ready\n"

    async def revive_for_ever(self) -> None:
        while True:
            assert self._server is not None
            await self._server.wait()
            self.deaths += 1
            await self.start()

    async def end(self) -> None:
        if self._server is not None and self._server.returncode is None:
            self._server.kill()
            await self._server.wait()


@asynccontextmanager
async def an_undying_server(deadly: bytes) -> AsyncIterator[tuple[str, Undying]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = Undying(port, deadly)
    await server.start()
    reviving = asyncio.create_task(server.revive_for_ever())
    try:
        yield f"http://127.0.0.1:{port}/v1", server
    finally:
        reviving.cancel()
        await asyncio.wait({reviving})
        await server.end()


def test_a_picture_that_a_model_server_dies_of_ends_as_failed_and_the_others_are_answered(
    database: str, tmp_path: Path
) -> None:
    """Case 43. It takes with it whatever is looked at beside it, once."""
    rate = 60.0

    async def one_deadly_picture() -> None:
        clock = HastyClock(rate)
        deadly = an_event("test", Priority.CRITICAL, clock.now(), 3000, is_asked=True)
        others = [an_event("test", Priority.HIGH, clock.now(), 500, is_asked=True) for _ in range(15)]
        async with an_undying_server(deadly.jpeg) as (url, server):
            provider = {"kind": "openai", "base_url": url, "model": "mortal", "concurrency": 4} | SLOW_ENOUGH
            async with answering(database, tmp_path, [provider], clock) as box:
                await box.hand_in(*others[:3], deadly, *others[3:])
                await box.until_ended(within_s=2 * HOUR_S)
                await check_ends(box, deadly, others)
            assert 2 <= server.deaths <= 6

    with asyncio.Runner(loop_factory=partial(HastyLoop, rate)) as runner:
        runner.run(one_deadly_picture())
    assert asyncio.run(judged(database, tmp_path)).outcomes == {"done": 15, "failed": 1}


async def check_ends(box: Answering, deadly: Event, others: list[Event]) -> None:
    ended = await box.outcomes()
    assert {ended[str(event.id)] for event in others} == {"done"}
    assert ended[str(deadly.id)] == "failed"
    [row] = await box.rows(f"SELECT reason FROM outcomes WHERE event_id = '{deadly.id}'")
    assert "server_error" in row["reason"]
