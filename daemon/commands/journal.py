"""The journal for a command: over the running daemon, or else itself."""

import sys
from typing import Any

import click

from daemon.config import Config
from daemon.control import ControlError, NobodyListensError, answer, ask
from daemon.logs import LogSettings, configure_logs
from pipeline.journal import open_journal
from pipeline.journal_errors import JournalError


async def ask_journal(config: Config, command: str, **arguments: Any) -> dict[str, Any] | None:
    """None where nothing was ever recorded. What goes wrong becomes one line and exit code 1."""
    configure_logs(LogSettings(level="warning"), stream=sys.stderr)
    request = {"command": command, **arguments}
    try:
        if not (config.state_dir / "journal.db").exists():
            return None
        try:
            return await ask(config.state_dir, request)
        except NobodyListensError:
            async with open_journal(config.state_dir, config.journal, site=config.site) as journal:
                return await answer(journal, request)
    except (ControlError, JournalError) as error:
        raise click.ClickException(f"journal: {error}") from error
    except OSError as error:
        raise click.ClickException(f"journal: {error.filename}: {error.strerror}") from error
