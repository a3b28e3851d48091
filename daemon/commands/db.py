"""`lva db`: the database's tables, its state, what it refused, and forgetting."""

import json
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path

import click

from daemon.commands.database import database, run_command
from daemon.commands.dead_letters import dead_letters
from daemon.commands.journal import ask_journal
from daemon.commands.options import config_option
from daemon.commands.when import Span
from daemon.config import Config, load_config
from pipeline.database_status import DatabaseStatus, TableStatus, database_status
from pipeline.migrations import migrate as apply_migrations
from pipeline.retention import count_old
from pipeline.retention import prune as delete_old


@click.group()
def db() -> None:
    """The database: its tables, its state, what it refused, and forgetting."""


db.add_command(dead_letters)


@db.command()
@config_option
def migrate(config_path: Path) -> None:
    """Create the tables, or bring them up to date. The daemon does the same where its role may."""
    run_command(_migrate(load_config(config_path)))


async def _migrate(config: Config) -> None:
    async with database(config, create=True) as connection:
        applied = await apply_migrations(connection)
    for migration in applied:
        click.echo(f"applied {migration.version:04} {migration.name}")
    if not applied:
        click.echo("up to date")


@db.command()
@config_option
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def status(config_path: Path, as_json: bool) -> None:
    """Say what runs there, which tables it has and how many rows are in them."""
    run_command(_status(load_config(config_path), as_json))


async def _status(config: Config, as_json: bool) -> None:
    async with database(config) as connection:
        found = await database_status(connection)
    journal = (await ask_journal(config, "counts") or {}).get("counts")
    if as_json:
        click.echo(json.dumps(asdict(found) | {"journal": journal}, default=str))
    else:
        lines = _status_lines(found, embedded=not config.database.url.get_secret_value())
        click.echo("\n".join([*lines, *_journal_lines(journal)]))


def _status_lines(found: DatabaseStatus, *, embedded: bool) -> list[str]:
    where = "embedded" if embedded else f"database {found.database}, schema {found.schema}, role {found.role}"
    version = "unknown: this role may not look" if found.version is None else str(found.version)
    lines = [
        f"server      PostgreSQL {found.server_version}, {where}{', read-only' if found.read_only else ''}",
        f"migrations  {version} of {found.newest_version}",
        f"size        {_megabytes(found.size_bytes)}",
    ]
    if found.missing:
        lines.append(f"missing     {', '.join(found.missing)}: run `lva db migrate`")
    return lines + [_table_line(table) for table in found.tables or ()]


def _journal_lines(counts: dict[str, int] | None) -> list[str]:
    """What this box has not sent yet."""
    if counts is None:
        return []
    events = f"{counts['waiting']} events waiting, {counts['leased']} being asked about"
    return [f"journal     {events}, {counts['outbox']} rows to send, {counts['dead_letters']} dead letters"]


def _table_line(table: TableStatus) -> str:
    span = (
        f"  {table.oldest:%Y-%m-%d %H:%M} .. {table.newest:%Y-%m-%d %H:%M} UTC" if table.oldest and table.newest else ""
    )
    return f"{table.name:<12}{table.rows:>10} rows  {_megabytes(table.size_bytes):>9}{span}"


def _megabytes(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:.1f} MB"


@db.command()
@config_option
@click.option(
    "--older-than",
    type=Span(),
    required=True,
    help="Such as 30d, 12h or 8w; counted from when it was captured.",
)
@click.option("--dry-run", is_flag=True, help="Only say how many rows would go.")
def prune(config_path: Path, older_than: timedelta, dry_run: bool) -> None:
    """Delete old events with their analyses and outcomes, old gaps and dead letters, a batch at a time."""
    run_command(_prune(load_config(config_path), older_than, dry_run))


async def _prune(config: Config, older_than: timedelta, dry_run: bool) -> None:
    async with database(config) as connection:
        counts = await (count_old if dry_run else delete_old)(connection, older_than)
    word = "would delete" if dry_run else "deleted"
    for table, rows in counts.items():
        click.echo(f"{word} {rows} {table}")
