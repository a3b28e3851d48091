"""`lva validate` and `lva config`: is it right, what may stand in it, what stands in it."""

import json
from pathlib import Path

import click

from daemon.commands.options import config_option
from daemon.config import Config, ConfigError, check_labels, known_secrets, load_config
from daemon.logs import Redactor
from pipeline.detector import network_loader, reported_labels
from pipeline.yolo import DetectorError
from providers.settings import MoondreamSettings


@click.command()
@config_option
def validate(config_path: Path) -> None:
    """Check the configuration file, with the detector that it names, and say what is wrong with it."""
    config = load_config(config_path)
    cameras = [camera for camera in config.cameras if camera.enabled]
    if cameras:
        _check_detector(config, config_path)
    for camera in cameras:
        if not camera.is_live and not Path(camera.url.get_secret_value()).exists():
            click.echo(f"{config_path}: note: cameras: {camera.name}: is not there now: {camera.redacted}", err=True)
    for provider in config.providers:
        if isinstance(provider, MoondreamSettings) and provider.server and not provider.server.folder.is_dir():
            named = f"{config_path}: note: providers: {provider.name or provider.kind}"
            click.echo(f"{named}: its model is not there now: {provider.server.folder}", err=True)
    parts = ((len(cameras), "camera"), (len(config.providers), "provider"), (len(config.questions), "question"))
    told = ", ".join(f"{count} {noun}{'' if count == 1 else 's'}" for count, noun in parts)
    click.echo(f"{config_path}: good: {told}")


def _check_detector(config: Config, config_path: Path) -> None:
    try:
        check_labels(config, reported_labels(network_loader(config.detector)().info, config.detector))
    except DetectorError as error:
        raise ConfigError([f"{config_path}: {error}"]) from None
    except ConfigError as error:
        raise error.of(config_path) from None


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
