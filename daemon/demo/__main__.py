"""`make demo`: the real daemon on the bundled clip, its log as it runs, and then the rows that it wrote, by SQL."""

import asyncio
import json
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

import asyncpg
import cv2
import structlog
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from daemon.config import Config, load_config
from daemon.embedded import database_url

TICK_S = 0.5
PLAIN_WIDTH = 150


async def demo(config_path: Path) -> int:
    """Exit code of the daemon; the rows are shown whatever it is."""
    console = Console(width=None if sys.stdout.isatty() else PLAIN_WIDTH)
    config = load_config(config_path)
    console.print(
        f"[bold]The daemon watches {_clip(config).name} now, for about {_seconds(config):.0f} s. This is its log:[/]\n"
    )
    started = datetime.now(UTC)
    code = await _run_daemon(config_path, _seconds(config), console)
    await _show_rows(config, started, console)
    return code


def _clip(config: Config) -> Path:
    return Path(config.cameras[0].url.get_secret_value())


def _seconds(config: Config) -> float:
    capture = cv2.VideoCapture(str(_clip(config)))
    return capture.get(cv2.CAP_PROP_FRAME_COUNT) / (capture.get(cv2.CAP_PROP_FPS) or 1.0)


async def _run_daemon(config_path: Path, seconds: float, console: Console) -> int:
    command = [sys.executable, "-m", "daemon", "run", "--until-eof", "--config", str(config_path)]
    daemon = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    columns = (TextColumn("[bold]{task.description}"), BarColumn(None), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not sys.stdout.isatty()) as progress:
        task = progress.add_task("clip", total=seconds)
        ticking = asyncio.create_task(_tick(progress, task), name="progress")
        assert daemon.stdout is not None
        async for line in daemon.stdout:
            console.print(_readable(line.decode()))
        ticking.cancel()
    return await daemon.wait()


async def _tick(progress: Progress, task: Any) -> None:
    while True:
        await asyncio.sleep(TICK_S)
        progress.advance(task, TICK_S)


_render = structlog.dev.ConsoleRenderer(colors=True, pad_event_to=0)


def _readable(line: str) -> Text:
    """A line of the log as the daemon itself would show it on a terminal."""
    try:
        event: Mapping[str, Any] = json.loads(line)
    except ValueError:
        return Text(line.rstrip())
    shown = {key: value for key, value in event.items() if key != "event_id"}
    shown["timestamp"] = str(shown.get("timestamp", ""))[11:19]
    return Text.from_ansi(str(_render(None, "", shown)))


async def _show_rows(config: Config, started: datetime, console: Console) -> None:
    query = files("daemon.demo").joinpath("rows.sql").read_text("utf-8")
    async with database_url(config.database, config.state_dir) as url:
        connection = await asyncpg.connect(url)
        try:
            rows = await connection.fetch(query, started)
        finally:
            await connection.close()
    console.print("\n[bold]What it wrote, by SQL:[/]\n")
    console.print(Syntax(query.strip(), "sql", background_color="default"))
    table = Table(*(rows[0].keys() if rows else ("no rows",)))
    for row in rows:
        table.add_row(*(_cell(value) for value in row.values()))
    console.print(table)
    console.print(
        f"{len(rows)} rows. Everything is in {config.state_dir}/: look again with [bold].venv/bin/lva events[/], "
        "and at the configuration in [bold]config.toml[/]."
    )


def _cell(value: object) -> str:
    return "" if value is None else str(value).strip('[]"').replace('", "', ", ")


if __name__ == "__main__":
    sys.exit(asyncio.run(demo(Path("config.toml"))))
