"""A connection for a command: to the configured database, or to the embedded one while the command runs."""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import click

from daemon.config import Config
from daemon.embedded import database_url, has_embedded
from daemon.logs import LogSettings, configure_logs
from daemon.postgres_programs import EmbeddedPostgresError
from pipeline.sql_errors import DATABASE_ERRORS, DatabaseUnusableError, explain
from pipeline.store import connect


class NothingRecorded(click.ClickException):
    """There is no database, or no table in it, as nothing was ever recorded. Says so and exits 0."""

    exit_code = 0

    def __init__(self) -> None:
        super().__init__("no events yet")

    def show(self, file: Any = None) -> None:
        click.echo(self.format_message(), err=True)


@asynccontextmanager
async def database(config: Config, *, create: bool = False) -> AsyncIterator[asyncpg.Connection]:
    """What goes wrong with the database, in here and in the body, becomes one line and exit code 1."""
    configure_logs(LogSettings(level="warning"), stream=sys.stderr)
    if not (config.database.url.get_secret_value() or create or has_embedded(config.state_dir)):
        raise NothingRecorded
    try:
        async with database_url(config.database, config.state_dir) as url:
            connection = await connect(config.database, url)
            try:
                yield connection
            finally:
                connection.terminate()
    except asyncpg.UndefinedTableError:
        raise NothingRecorded from None
    except BrokenPipeError:
        raise
    except (*DATABASE_ERRORS, DatabaseUnusableError, EmbeddedPostgresError) as error:
        raise click.ClickException(f"database: {explain(error)}") from error


def run_command(command: Coroutine[Any, Any, None]) -> None:
    """Run it to its end, or until SIGINT or SIGTERM, which leave nothing behind and are no failure."""

    async def until_stopped() -> None:
        task = asyncio.ensure_future(command)
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)
        await asyncio.wait([task])
        if not task.cancelled():
            task.result()

    asyncio.run(until_stopped())
