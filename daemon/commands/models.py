"""`lva models`: weights, fetched once and held to their hashes."""

import asyncio
import sys
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.table import Table

from daemon.commands.options import config_option
from daemon.config import load_local_config
from daemon.model_files import RECORD, ModelEntry, ModelFileError, expected_sha256, manifest, problems, pull, state_of

EXPORT_SIZE_PX = 640


@click.group()
def models() -> None:
    """Weights of models that this program can run."""


def _folder(config_path: Path, to: Path | None, name: str) -> Path:
    """Beside the journal, unless somebody says where."""
    return (to or load_local_config(config_path).state_dir / "models") / name


_to_option = click.option(
    "--to", type=click.Path(file_okay=False, path_type=Path), help="Keep them here instead of in state_dir/models."
)
_name_argument = click.argument("name", type=click.Choice(list(manifest())))


@models.command("list")
@config_option
@_to_option
def list_models(config_path: Path, to: Path | None) -> None:
    """Which there are, and which files of each are here."""
    table = Table("model", "file", "size", "here", box=None, header_style="bold")
    for name, entry in manifest().items():
        folder = _folder(config_path, to, name)
        for file in entry.files:
            size = f"{file.size / 1e6:.1f} MB" if file.size else ""
            table.add_row(name, file.name, size, state_of(folder, file))
        table.add_row("", f"[dim]{entry.about}[/dim]", "", f"[dim]{folder}[/dim]")
    Console().print(table)


@models.command("pull")
@config_option
@_to_option
@click.option("--mirror", default="", metavar="URL", help="Fetch from here instead; the paths stay the same.")
@_name_argument
def pull_model(config_path: Path, to: Path | None, mirror: str, name: str) -> None:
    """Fetch what is missing of a model, and check every file. Goes on where an earlier try ended."""
    entry, folder = manifest()[name], _folder(config_path, to, name)
    try:
        asyncio.run(_pull(entry, folder, mirror))
    except ModelFileError as error:
        click.echo(f"lva: {error}", err=True)
        click.echo(_by_hand(entry, folder), err=True)
        sys.exit(1)
    click.echo(f"{name} is in {folder}\nuse it in {entry.use}")


async def _pull(entry: ModelEntry, folder: Path, mirror: str) -> None:
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    for file in entry.files:
        known = expected_sha256(folder, file)
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task(file.name, total=file.size)

            def told(done: int, whole: int | None, bar: Progress = bar, task: object = task) -> None:
                bar.update(task, completed=done, total=whole)  # type: ignore[arg-type]

            is_new = await pull(folder, file, told, mirror)
        click.echo(f"{file.name}: {'fetched' if is_new else 'was here'}, {_judged(folder, bool(known))}", err=True)


def _judged(folder: Path, was_known: bool) -> str:
    if was_known:
        return "its SHA-256 is right"
    return f"nobody knew its SHA-256: this one is recorded in {folder / RECORD}, and held to from now on"


def _by_hand(entry: ModelEntry, folder: Path) -> str:
    """For a box without a network."""
    lines = [
        "",
        "Without a network: fetch these on another machine, copy them here, then run: lva models verify " + entry.name,
    ]
    for file in entry.files:
        if file.content:
            lines.append(f"  {folder / file.name}  (with this text in it: {file.content.strip()})")
            continue
        lines.append(f"  {folder / file.name}\n    from {file.url}")
        if known := expected_sha256(folder, file):
            lines.append(f"    sha256 {known}")
    return "\n".join(lines)


@models.command()
@config_option
@_to_option
@_name_argument
def verify(config_path: Path, to: Path | None, name: str) -> None:
    """Read every file of a model, and compare its hash."""
    entry, folder = manifest()[name], _folder(config_path, to, name)
    wrong = list(problems(folder, entry, lambda file: click.echo(f"reading {file}", err=True)))
    for problem in wrong:
        click.echo(problem, err=True)
    if wrong:
        sys.exit(1)
    click.echo(f"{name}: all {len(entry.files)} files are right")


@models.command()
@config_option
@_to_option
@click.option("--size-px", type=click.IntRange(32, 4096), default=EXPORT_SIZE_PX, help="Long side of the input.")
@click.option("--format", "kind", type=click.Choice(["onnx", "openvino"]), default="onnx")
@click.argument("name", type=click.Choice([name for name in manifest() if name.startswith("yolo")]))
def export(config_path: Path, to: Path | None, size_px: int, kind: str, name: str) -> None:
    """Make of a detector's weights what the daemon loads. Needs the extra `models` (torch, ultralytics)."""
    entry, folder = manifest()[name], _folder(config_path, to, name)
    weights = folder / entry.files[0].name
    if wrong := list(problems(folder, entry)):
        raise click.ClickException(f"{wrong[0]}; run: lva models pull {name}")
    try:
        from ultralytics import YOLO
    except ImportError as error:
        raise click.ClickException(f"needs the extra `models`: {error}") from error
    click.echo(YOLO(str(weights)).export(format=kind, imgsz=size_px, dynamic=kind == "onnx", simplify=False))
