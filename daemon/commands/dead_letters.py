"""`lva db dead-letters`: rows that the database refused, and sending them once more."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from daemon.commands.database import run_command
from daemon.commands.event_table import printable
from daemon.commands.journal import ask_journal
from daemon.commands.options import config_option
from daemon.config import load_local_config

REASON_LENGTH = 70


@click.group("dead-letters", invoke_without_command=True)
@config_option
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line, with the whole row as `body`.")
@click.pass_context
def dead_letters(context: click.Context, config_path: Path, as_json: bool) -> None:
    """List the rows that the database refused one by one. They are kept in this box's journal, whole."""
    if context.invoked_subcommand is None:
        run_command(_list(config_path, as_json))


async def _list(config_path: Path, as_json: bool) -> None:
    told = await ask_journal(load_local_config(config_path), "dead-letters") or {"dead_letters": []}
    for letter in told["dead_letters"]:
        failed_at = datetime.fromtimestamp(letter["failed_at"], UTC)
        dated = letter | {"failed_at": failed_at.isoformat(timespec="seconds")}
        click.echo(printable(json.dumps(dated, ensure_ascii=False)) if as_json else _line(dated))
    if not told["dead_letters"]:
        click.echo("no dead letters", err=True)


def _line(letter: dict[str, Any]) -> str:
    reason = printable(letter["reason"])[:REASON_LENGTH]
    return f"{letter['seq']:<6} {letter['failed_at']:<26} {letter['table']:<12} {letter['sqlstate']:<6} {reason}"


@dead_letters.command()
@config_option
@click.argument("ids", nargs=-1, type=click.IntRange(min=1), metavar="[ID]...")
@click.option("--all", "every", is_flag=True, help="All of them.")
@click.pass_context
def retry(context: click.Context, config_path: Path, ids: tuple[int, ...], every: bool) -> None:
    """Send rows once more, by the number that stands before them. One that is refused again comes back."""
    if bool(ids) == every:
        raise click.UsageError("give the IDs of the rows, or --all")
    run_command(_retry(_which(context, config_path), list(ids)))


def _which(context: click.Context, config_path: Path) -> Path:
    """--config may stand before `retry`, too."""
    given_here = context.get_parameter_source("config_path") is ParameterSource.COMMANDLINE
    return config_path if given_here or not context.parent else Path(context.parent.params["config_path"])


async def _retry(config_path: Path, ids: list[int]) -> None:
    told = await ask_journal(load_local_config(config_path), "retry-dead-letters", seqs=ids or None) or {"retried": 0}
    if told["retried"] < len(ids):
        raise click.ClickException(f"there are no such dead letters: {told['retried']} of {len(ids)} are sent again")
    click.echo(f"{told['retried']} rows are sent again")
