"""`lva bench`: the figures of README, measured here and now."""

import asyncio
import json
import platform
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import click

from daemon.bench import flood, live, storage, trigger_path
from daemon.bench.figures import Figure, print_table
from daemon.bench.material import Material
from daemon.logs import LogSettings, configure_logs

DEMO = Path(__file__).parents[1] / "demo"


def _models(material: Material) -> AsyncIterator[Figure]:
    """Needs torch, of the extra `models`, which no other section loads."""
    from daemon.bench import models

    return models.measure(material)


SECTIONS: dict[str, Callable[[Material], Iterator[Figure] | AsyncIterator[Figure]]] = {
    "trigger": trigger_path.measure,
    "storage": storage.measure,
    "flood": flood.measure,
    "live": live.measure,
    "models": _models,
}


@click.command()
@click.argument("sections", nargs=-1, type=click.Choice(list(SECTIONS)), metavar="[SECTION]...")
@click.option("--clip", type=click.Path(exists=True, path_type=Path), default=DEMO / "yard.mp4", help="A video file.")
@click.option(
    "--model", type=click.Path(exists=True, path_type=Path), default=DEMO / "world-yolo11n.onnx", help="A detector."
)
@click.option("--size-px", default=416, show_default=True, help="Long side of the detector's input.")
@click.option("--out", type=click.Path(path_type=Path), help="Also write the figures to this JSON file.")
def bench(sections: tuple[str, ...], clip: Path, model: Path, size_px: int, out: Path | None) -> None:
    """Measure this machine: trigger, storage, flood, live, models; all of them if none is named."""
    configure_logs(LogSettings(level="error"), stream=sys.stderr)
    figures: list[Figure] = []

    def tell(figure: Figure) -> None:
        click.echo(f"{figure.name}: {figure.value:g} {figure.unit}  {figure.detail}", err=True)
        figures.append(figure)

    for section in sections or SECTIONS:
        with tempfile.TemporaryDirectory(prefix="lva-bench-") as scratch:
            material = Material(clip.resolve(), model.resolve(), size_px, Path(scratch))
            asyncio.run(_measure(SECTIONS[section](material), tell))
    print_table(figures)
    if out:
        out.write_text(json.dumps(_report(figures, clip, model), indent=2) + "\n")


async def _measure(figures: Iterator[Figure] | AsyncIterator[Figure], tell: Callable[[Figure], None]) -> None:
    """Each is told as soon as it is there."""
    if isinstance(figures, AsyncIterator):
        async for figure in figures:
            tell(figure)
    else:
        for figure in figures:
            tell(figure)


def _report(figures: list[Figure], clip: Path, model: Path) -> dict[str, object]:
    return {
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "clip": clip.name,
        "model": model.name,
        "figures": [figure.as_dict() for figure in figures],
    }
