"""Options that several commands share."""

from pathlib import Path
from typing import Any

import click

config_option: Any = click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path),
    default=Path("config.toml"),
    show_default=True,
    metavar="FILE",
    help="The configuration file.",
)
