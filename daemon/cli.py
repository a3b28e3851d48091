"""The `lva` command. Exit codes: 0 good, 1 failed, 2 usage, 78 configuration."""

import importlib
import os
import sys

import click

from daemon.config_error import EXIT_CONFIGURATION, ConfigError

os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", "50000000")

COMMANDS = {
    "run": "daemon.commands.run:run",
    "status": "daemon.commands.status:status",
    "validate": "daemon.commands.config:validate",
    "config": "daemon.commands.config:config",
    "cameras": "daemon.commands.cameras:cameras",
    "providers": "daemon.commands.providers:providers",
    "analyze": "daemon.commands.analyze:analyze",
    "models": "daemon.commands.models:models",
    "db": "daemon.commands.db:db",
    "events": "daemon.commands.events:events",
    "tail": "daemon.commands.events:tail",
    "bench": "daemon.commands.bench:bench",
    "version": "daemon.commands.version:version",
}
"""Loaded when asked for: `lva events` has no use for a detector."""


class LazyGroup(click.Group):
    """Commands by name, each imported when it is used."""

    def list_commands(self, _context: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, _context: click.Context, name: str) -> click.Command | None:
        if (place := COMMANDS.get(name)) is None:
            return None
        module, _, attribute = place.partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
def lva() -> None:
    """Live Vision Analyzer: cameras, a cheap detector, answers from a vision-language model, rows in Postgres."""


def main() -> None:
    try:
        lva()
    except ConfigError as error:
        for line in error.lines:
            click.echo(line, err=True)
        sys.exit(EXIT_CONFIGURATION)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
