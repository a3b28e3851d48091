"""`lva events` and `lva tail`: what was recorded, and what is being recorded."""

import asyncio
import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from daemon.commands.database import NothingRecorded, database, run_command
from daemon.commands.event_table import print_line, print_table, printable
from daemon.commands.options import config_option
from daemon.commands.when import When
from daemon.config import Config, load_config
from pipeline.event_log import Changes, EventFilter, LoggedEvent, database_time, list_events
from pipeline.events import EventKind, Priority

TABLE_LIMIT = 20
TAIL_PERIOD_S = 0.5
AWAY_PERIOD_S = 2.0

_FILTERS = (
    click.option("--camera", metavar="NAME", help="Only of this camera."),
    click.option("--kind", type=click.Choice([kind.value for kind in EventKind]), help="Only of this kind."),
    click.option("--priority", type=click.Choice([each.word for each in Priority]), help="Only this urgent."),
    click.option("--text", metavar="WORDS", help="Only with these words in the reason, label or description."),
    click.option("--json", "as_json", is_flag=True, help="One JSON object a line."),
)


def _filters(command: Callable[..., None]) -> Callable[..., None]:
    for option in reversed(_FILTERS):
        command = option(command)
    return command


@click.command()
@config_option
@_filters
@click.option("--since", type=When(), help="Captured at this time or later: 1h, 30m, 2d, or an ISO time.")
@click.option("--until", type=When(), help="Captured before this time.")
@click.option("--limit", type=click.IntRange(min=0), help="The newest so many; 0: all.  [default: 20; all with --json]")
def events(
    config_path: Path,
    as_json: bool,
    since: datetime | None,
    until: datetime | None,
    limit: int | None,
    **wanted: Any,
) -> None:
    """Show recorded events, oldest first.

    With --json, each line is an event with its analysis under `analysis` (null while there is none) and its
    `outcome` (null while it is open).
    """
    if limit is None and not as_json:
        limit = TABLE_LIMIT
    selected = EventFilter(since=since, until=until, limit=limit or None, **wanted)
    run_command(_show(load_config(config_path), selected, as_json))


@click.command()
@config_option
@_filters
@click.option(
    "--lines",
    "-n",
    type=click.IntRange(min=0),
    default=10,
    show_default=True,
    help="How many older ones first.",
)
def tail(config_path: Path, as_json: bool, lines: int, **wanted: Any) -> None:
    """Follow events as they arrive; each is shown again when its outcome is known. Ctrl-C ends it."""
    run_command(_follow(load_config(config_path), EventFilter(limit=lines, **wanted), as_json))


async def _show(config: Config, wanted: EventFilter, as_json: bool) -> None:
    async with database(config) as connection:
        if as_json:
            async for event in list_events(connection, wanted):
                _print_json(event)
        elif found := [event async for event in list_events(connection, wanted)]:
            print_table(found)
        else:
            click.echo("no such events" if wanted != EventFilter(limit=wanted.limit) else "no events yet", err=True)


async def _follow(config: Config, wanted: EventFilter, as_json: bool) -> None:
    show = _print_json if as_json else print_line
    changes: Changes | None = None
    trouble = ""
    while True:
        try:
            async with database(config) as connection:
                if changes is None:
                    changes = Changes(await database_time(connection))
                    async for event in list_events(connection, wanted):
                        changes.know(event)
                        show(event)
                trouble = ""
                while True:
                    for event in filter(wanted.passes, await changes.fetch(connection)):
                        show(event)
                    await asyncio.sleep(TAIL_PERIOD_S)
        except click.ClickException as error:
            if changes is None and not isinstance(error, NothingRecorded):
                raise
            if error.message != trouble:
                trouble = error.message
                click.echo(f"{trouble}; waiting", err=True)
        await asyncio.sleep(AWAY_PERIOD_S)


def _print_json(event: LoggedEvent) -> None:
    click.echo(printable(json.dumps(event, ensure_ascii=False, allow_nan=False)))
