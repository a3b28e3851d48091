"""All faults at once, for days of the boxes' time: `python -m tests.faults.soak --hours N`, or `make soak HOURS=N`.

Two boxes of one name share a database behind a bad line. One is killed again and again; the other, the veteran, lives
through the whole of it, with its memory, files and threads watched. At the end of each shift the faults stop, all that
waits drains, and the oracle compares. Exit status 0 when it found nothing and nothing grew.
"""

import argparse
import asyncio
import json
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from daemon.postgres_server import PostgresServer
from tests.faults.box import UNDONE, BoxSettings
from tests.faults.lives import FRESH, Lives
from tests.faults.mishaps import HOUR_S, LANES, USUAL_EVENTS_PER_S, Site, happen_for_ever
from tests.faults.nursery import a_nursery
from tests.faults.oracle import Evidence, Verdict, check
from tests.faults.proxy import a_proxy
from tests.faults.resources import Growth, Sample, growth

RATE = 60.0
SHIFT_H = 6.0
DRAIN_H = 4.0
"""In the boxes' time. What has not drained by then is lost; the oracle says what it is."""
SAMPLE_S = 300.0
"""Of the boxes' time."""

MOST_GROWTH_MB = 32.0
MOST_GROWTH_MB_PER_H = 1.0
SLOPE_FROM_H = 12.0
"""A slope says something from here on; over less, a backlog that comes and goes is all that it shows."""
MOST_MORE_DESCRIPTORS, MOST_MORE_THREADS = 4, 1

_PATIENT = {"connect_timeout_s": 60, "command_timeout_s": 120}
"""In the boxes' time: a second and two of ours."""
_TABLES = "events, outcomes, analyses, gaps, dead_letters, alarms"


@dataclass(slots=True)
class Soak:
    """What one came to."""

    hours: float
    rate: float
    seed: str
    accepted: int = 0
    faults: list[str] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    happened: Counter[str] = field(default_factory=Counter)

    @property
    def growth(self) -> Growth:
        return growth(self.samples)

    def judge(self) -> list[str]:
        """What is wrong; empty when all is well."""
        grown = self.growth
        found = list(self.faults)
        if grown.resident_mb > MOST_GROWTH_MB:
            found.append(f"memory has grown by {grown.resident_mb:.1f} MB")
        if self.hours >= SLOPE_FROM_H and grown.resident_mb_per_h > MOST_GROWTH_MB_PER_H:
            found.append(f"memory grows by {grown.resident_mb_per_h:.2f} MB an hour")
        if grown.descriptors > MOST_MORE_DESCRIPTORS:
            found.append(f"{grown.descriptors} more files are open")
        if grown.threads > MOST_MORE_THREADS:
            found.append(f"{grown.threads} more threads run")
        return found


async def soak(hours: float, seed: str, *, rate: float = RATE, shift_h: float = SHIFT_H) -> Soak:
    """Prints what happens as it does. `hours` are of the boxes' time."""
    told = Soak(hours, rate, seed)
    folder = Path(tempfile.mkdtemp(prefix="lva-soak-"))
    async with a_site(folder, seed, rate) as site:
        async with asyncio.TaskGroup() as beside:
            watching = beside.create_task(_watch(site, told), name="watch")
            left_h, shift = hours, 0
            while left_h > 0 and not told.faults:
                shift += 1
                await _work_a_shift(site, min(left_h, shift_h))
                left_h -= shift_h
                await _end_shift(site, told, shift)
            watching.cancel()
        told.happened = site.happened
    if told.faults:
        print(f"what there was is in {folder}")
    else:
        shutil.rmtree(folder)
    return told


@asynccontextmanager
async def a_site(folder: Path, seed: str, rate: float) -> AsyncIterator[Site]:
    (folder / "postgres").mkdir()
    server = PostgresServer(folder / "postgres")
    await server.start()
    with a_nursery() as nursery:
        async with a_proxy(server.dsn) as proxy:
            veteran, victim = (
                Lives(nursery, folder / name, _settings(folder / name, proxy.dsn, f"{seed}/{name}", rate), server.dsn)
                for name in ("veteran", "victim")
            )
            veteran.start(ids_lost=0.002)
            victim.start()
            try:
                await veteran.until_accepted(1)
                yield Site(rate, random.Random(seed), server, proxy, veteran, victim)
            finally:
                veteran.abandon()
                victim.abandon()
    await server.stop()


def _settings(folder: Path, dsn: str, seed: str, rate: float) -> BoxSettings:
    folder.mkdir()
    return BoxSettings(
        state_dir=str(folder / "state"),
        dsn=dsn,
        seed=seed,
        time_rate=rate,
        pauses="own",
        events_per_s=USUAL_EVENTS_PER_S,
        poison=0.001,
        orders=str(folder / "orders"),
        config={"drain_s": 600, "database": _PATIENT, "workers": {"retry_first_s": 2.0, "retry_max_s": 60.0}},
    )


async def _watch(site: Site, told: Soak) -> None:
    while True:
        told.samples.append(Sample.of(site.veteran.pid, time.monotonic() * site.rate))
        await asyncio.sleep(SAMPLE_S / site.rate)


async def _work_a_shift(site: Site, hours: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(hours * HOUR_S / site.rate), asyncio.TaskGroup() as lanes:
            for number, lane in enumerate(LANES):
                lanes.create_task(happen_for_ever(site, lane), name=f"lane {number}")


async def _end_shift(site: Site, told: Soak, shift: int) -> None:
    """All is well again: everything drains, and is compared, and both boxes go on with empty tables."""
    before = site.veteran.said("empty")
    site.order(script={}, events_per_s=USUAL_EVENTS_PER_S, paused=True)
    await site.victim.stop()
    try:
        with suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_H * HOUR_S / site.rate):
                while (status := await site.victim.life(count=FRESH)) == UNDONE:
                    pass  # it had more to send than it may take time for; the next one goes on
                assert status == 0, site.victim.last_words()
                await site.veteran.until(lambda: site.veteran.said("empty") > before)
        verdict = await _compare(site, told.seed)
    except AssertionError as error:
        told.faults.append(str(error))
        return
    told.accepted += verdict.accepted
    now = told.samples[-1]
    print(
        f"shift {shift}: {verdict.accepted} accepted, {verdict.unsaid} more durable and unsaid;"
        f" {json.dumps(dict(verdict.outcomes))};"
        f" veteran {now.resident_kb / 1024:.1f} MB, {now.descriptors} files, {now.threads} threads;"
        f" victim's life {site.victim.count}",
        flush=True,
    )
    site.order(paused=False)
    site.revive()


async def _compare(site: Site, seed: str) -> Verdict:
    fresh = Evidence.of(site.victim.evidence[-1:]).accepted
    evidence = [*site.veteran.evidence, *site.victim.evidence]
    verdict = await check(site.veteran.database, evidence, seed=seed, fresh=fresh)
    await site.execute(f"TRUNCATE {_TABLES}")
    site.veteran.forget()
    site.victim.forget()
    return verdict


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, default=72.0, help="of the boxes' time")
    parser.add_argument("--rate", type=float, default=RATE, help="how much faster their time runs")
    parser.add_argument("--shift", type=float, default=SHIFT_H, help="hours from one comparison to the next")
    parser.add_argument("--seed", default=str(random.SystemRandom().randrange(10**6)))
    given = parser.parse_args(arguments)
    print(f"{given.hours:g} hours of the boxes' time in {given.hours / given.rate:.2f} of ours, seed {given.seed}")
    told = asyncio.run(soak(given.hours, given.seed, rate=given.rate, shift_h=given.shift))
    return _tell_end(told)


def _tell_end(told: Soak) -> int:
    grown, found = told.growth, told.judge()
    for mishap, times in told.happened.most_common():
        print(f"{times:6} × {mishap}")
    print(f"{told.accepted} events accepted, each with its one outcome" if not told.faults else "not all is there")
    print(f"memory: {grown.resident_mb_per_h:+.3f} MB per hour of the box, {grown.resident_mb:+.1f} MB at the most;")
    print(f"files: {grown.descriptors:+d}; threads: {grown.threads:+d}; of {len(told.samples)} samples")
    print("\n".join(found) or "nothing found")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
