"""`lva status`: how the running daemon is, asked over its HTTP."""

import http.client
import json
import sys
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import click

from daemon.commands.options import config_option
from daemon.commands.status_page import print_page
from daemon.config import load_http_settings
from daemon.http_settings import HttpSettings

TIMEOUT_S = 5.0


@click.command()
@config_option
@click.option("--json", "as_json", is_flag=True, help="All of it, as one JSON object.")
def status(config_path: Path, as_json: bool) -> None:
    """Say how the running daemon is. Exit code 0: all is well; 1: something needs a look, or nobody answers."""
    told = _ask(load_http_settings(config_path), config_path)
    if as_json:
        click.echo(json.dumps(told, indent=2))
    else:
        print_page(told)
    sys.exit(1 if told["troubles"] else 0)


def _ask(settings: HttpSettings, config_path: Path) -> dict[str, Any]:
    if not settings.enabled:
        raise click.ClickException(f"{config_path} has [http] enabled = false, so the daemon can't be asked")
    address = settings.address
    connection = http.client.HTTPConnection(_nearest(settings.host), settings.port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", "/api/stats")
        response = connection.getresponse()
        told = json.loads(response.read()) if response.status == 200 else None
    except TimeoutError:
        raise click.ClickException(f"{address}: no answer within {TIMEOUT_S:g} s: the daemon is stuck") from None
    except OSError as error:
        reason = error.strerror or error
        raise click.ClickException(f"{address}: nobody answers: is the daemon running? ({reason})") from None
    except (http.client.HTTPException, ValueError):
        told = None
    finally:
        connection.close()
    if not isinstance(told, dict) or "troubles" not in told:
        raise click.ClickException(f"{address}: something answers there, but not this version of the daemon")
    return told


def _nearest(host: str) -> str:
    """Of a daemon that listens everywhere: here."""
    try:
        address = ip_address(host)
    except ValueError:
        return host
    if not address.is_unspecified:
        return host
    return "127.0.0.1" if address.version == 4 else "::1"
