"""`lva version`: what is running."""

import platform
from importlib.metadata import version as version_of

import click

_TOLD = ("opencv-python", "openvino", "onnxruntime", "apsw", "asyncpg", "aiohttp", "uvloop", "trackers")


@click.command()
def version() -> None:
    """Print the version, and those of what it stands on."""
    click.echo(f"lva {version_of('live-vision-analyzer')}, Python {platform.python_version()}, {platform.machine()}")
    for name in _TOLD:
        click.echo(f"  {name} {version_of(name)}")
