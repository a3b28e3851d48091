"""What can happen to a site: to its line, its database, its boxes, and those who answer. Each mishap has an end.

A mishap that is cancelled puts right what it did before it goes.
"""

import json
import os
import random
import signal
from asyncio import sleep
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg

from daemon.postgres_server import PostgresServer
from tests.faults.lives import Lives
from tests.faults.proxy import Proxy, Weather

MINUTE_S = 60.0
HOUR_S = 3600.0
USUAL_EVENTS_PER_S = 1.0
"""Of a box, in its own time."""


@dataclass(slots=True)
class Site:
    """Two boxes, the line that both use, and the database behind it. Their time runs `rate` times faster than ours.

    The veteran lives through everything; the victim dies again and again.
    """

    rate: float
    lot: random.Random
    server: PostgresServer
    proxy: Proxy
    veteran: Lives
    victim: Lives
    happened: Counter[str] = field(default_factory=Counter)

    async def pass_minutes(self, least: float, most: float) -> None:
        """Of the boxes' time."""
        await sleep(self.lot.uniform(least, most) * MINUTE_S / self.rate)

    async def pass_a_while(self) -> None:
        """Mostly minutes, sometimes hours."""
        await self.pass_minutes(*self.lot.choice([(1, 15), (1, 15), (1, 15), (30, 360)]))

    def order(self, **orders: Any) -> None:
        """Tell the veteran what is different from now on."""
        Path(self.veteran.settings.orders).write_text(json.dumps(orders))
        os.kill(self.veteran.pid, signal.SIGHUP)

    async def execute(self, sql: str) -> None:
        """As the owner, on a way that is always good."""
        connection = await asyncpg.connect(self.veteran.database)
        try:
            await connection.execute("SET default_transaction_read_only = off")
            await connection.execute(sql)
        finally:
            await connection.close()

    def revive(self) -> None:
        """A new life for the victim, by a clock that someone may have set meanwhile."""
        jump_s = self.lot.choice([0.0, 0.0, HOUR_S, -HOUR_S, 365 * 24 * HOUR_S, -20 * 365 * 24 * HOUR_S])
        self.victim.start(clock_jump_s=jump_s, script={"down": self.lot.random() < 0.1})


async def the_line_is_cut(site: Site) -> None:
    await site.proxy.close()
    try:
        await site.pass_a_while()
    finally:
        await site.proxy.open()


async def the_line_is_bad(site: Site) -> None:
    weather = [
        Weather(silent=True),
        Weather(delay_s=site.lot.uniform(0.005, 0.1)),
        Weather(trickle_s=0.01),
        Weather(cut_after=site.lot.randrange(100, 5000)),
        Weather(share_of_replies_to_cut=0.3),
    ]
    site.proxy.weather = site.lot.choice(weather)
    try:
        await site.pass_a_while()
    finally:
        site.proxy.weather = Weather()


async def the_line_flaps(site: Site) -> None:
    for _ in range(site.lot.randrange(2, 20)):
        await site.proxy.reset()
        await site.pass_minutes(0.1, 2)


async def the_server_is_killed(site: Site) -> None:
    postmaster = site.server.pid()
    assert postmaster
    for process in site.lot.choice([[postmaster], site.server._processes()]):
        os.kill(process, signal.SIGKILL)
    try:
        await site.pass_minutes(0, 30)
    finally:
        await site.server.start()


async def a_session_is_frozen(site: Site) -> None:
    """At any moment: in the middle of a transaction too, when its locks stand in the way of those that come after."""
    connection = await asyncpg.connect(site.veteran.database)
    query = "SELECT pid FROM pg_stat_activity WHERE application_name = 'lva'"
    sessions = [row["pid"] for row in await connection.fetch(query)]
    await connection.close()
    for session in sessions[:1]:
        os.kill(session, signal.SIGSTOP)
    try:
        await site.pass_minutes(1, 20)
    finally:
        for session in sessions[:1]:
            os.kill(session, signal.SIGCONT)


async def a_column_is_renamed(site: Site) -> None:
    await site.execute("ALTER TABLE events RENAME COLUMN camera TO lens")
    try:
        await site.pass_a_while()
    finally:
        await site.execute("ALTER TABLE events RENAME COLUMN lens TO camera")


async def the_database_is_read_only(site: Site) -> None:
    leave = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'lva'"
    await site.execute("ALTER DATABASE postgres SET default_transaction_read_only = on")
    await site.execute(leave)
    try:
        await site.pass_a_while()
    finally:
        await site.execute("ALTER DATABASE postgres RESET default_transaction_read_only")


async def a_box_is_killed(site: Site) -> None:
    await site.victim.kill()
    site.revive()


async def a_box_is_killed_while_it_starts(site: Site) -> None:
    for _ in range(site.lot.randrange(2, 8)):
        await site.victim.kill()
        site.revive()
        await sleep(site.lot.uniform(0, 0.1))


async def a_box_is_stopped(site: Site) -> None:
    """It drains, as far as it can."""
    await site.victim.stop()
    site.revive()


async def nobody_answers(site: Site) -> None:
    await _with_orders(site, script={"down": True})


async def most_answers_fail(site: Site) -> None:
    await _with_orders(site, script={"away": 0.6, "unusable": 0.2})


async def answers_are_slow(site: Site) -> None:
    await _with_orders(site, script={"slow": 1.0, "slow_s": 4.5})


async def events_come_in_a_flood(site: Site) -> None:
    site.order(events_per_s=50 * USUAL_EVENTS_PER_S)
    try:
        await site.pass_minutes(0.2, 3)
    finally:
        site.order(events_per_s=USUAL_EVENTS_PER_S)


async def the_clock_is_set(site: Site) -> None:
    """And stays so."""
    site.order(clock_jump_s=site.lot.uniform(-2, 2) * site.lot.choice([MINUTE_S, HOUR_S, 365 * 24 * HOUR_S]))


async def _with_orders(site: Site, script: dict[str, Any]) -> None:
    site.order(script=script)
    try:
        await site.pass_a_while()
    finally:
        site.order(script={})


Mishap = Callable[[Site], Awaitable[None]]

LANES: tuple[tuple[Mishap, ...], ...] = (
    (the_line_is_cut, the_line_is_bad, the_line_is_bad, the_line_flaps),
    (the_server_is_killed, a_session_is_frozen, a_column_is_renamed, the_database_is_read_only),
    (a_box_is_killed, a_box_is_killed, a_box_is_killed_while_it_starts, a_box_is_stopped),
    (nobody_answers, most_answers_fail, answers_are_slow, events_come_in_a_flood, the_clock_is_set),
)
"""One mishap of each lane at a time."""


async def happen_for_ever(site: Site, lane: tuple[Mishap, ...]) -> None:
    while True:
        await site.pass_minutes(2, 20)
        mishap = site.lot.choice(lane)
        site.happened[mishap.__name__.replace("_", " ")] += 1
        await mishap(site)
