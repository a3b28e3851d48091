"""Options that several commands share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])


def config_option(command: Command) -> Command:
    """`--config FILE`, handed to the command as `config_path`."""
    option = click.option(
        "--config",
        "config_path",
        type=click.Path(path_type=Path),
        default=Path("config.toml"),
        show_default=True,
        envvar="LVA_CONFIG",
        show_envvar=True,
        metavar="FILE",
        help="The configuration file.",
    )
    return option(command)
