"""`lva validate` and `lva config`: is it right, what may stand in it, what stands in it."""

import json
from pathlib import Path

import click

from daemon.commands.options import config_option
from daemon.config import Config, known_secrets, load_config
from daemon.logs import Redactor


@click.command()
@config_option
def validate(config_path: Path) -> None:
    """Check the configuration file, and say what is wrong with it."""
    config = load_config(config_path)
    cameras = sum(camera.enabled for camera in config.cameras)
    click.echo(
        f"{config_path}: good: {cameras} cameras, {len(config.providers)} providers, {len(config.questions)} questions"
    )


@click.group()
def config() -> None:
    """What may stand in the configuration file, and what stands in it."""


@config.command()
def schema() -> None:
    """Print the JSON schema of the configuration file."""
    click.echo(json.dumps(Config.model_json_schema(), indent=2))


@config.command()
@config_option
def show(config_path: Path) -> None:
    """Print the configuration with all defaults, as JSON, without its secrets."""
    shown = load_config(config_path).model_dump_json(indent=2)
    click.echo(Redactor(known_secrets(config_path))(shown))
