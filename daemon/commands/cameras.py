"""`lva cameras test`: each configured camera opened for real, all at once."""

import asyncio
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from daemon.commands.options import config_option
from daemon.config import known_secrets, load_config
from daemon.logs import configure_logs
from pipeline.camera import Camera, CameraSettings, CameraState, DetectorInput, Frame, Lost, Opened

START_S = 10.0
"""What starting the processes of all cameras may take on a small box, beside a camera's own timeouts."""

SETTLE_S = 1.0
"""Frames that had piled up while the stream was opened are not part of its rate."""

MEASURE_S = 2.5


@dataclass(frozen=True, slots=True)
class Tested:
    """How one camera did; `failure` says why there is no picture, and is empty where there is one."""

    camera: str
    url: str
    failure: str = ""
    codec: str = ""
    width: int = 0
    height: int = 0
    fps: float | None = None
    time_to_first_frame_s: float | None = None
    shows: CameraState = CameraState.DOWN


@click.group()
def cameras() -> None:
    """What is watched."""


@cameras.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--json", "as_lines", is_flag=True, help="One JSON object a line, for programs.")
@config_option
def test(names: tuple[str, ...], as_lines: bool, config_path: Path) -> None:
    """Open the cameras NAME, or all that are enabled, and tell what they send, or why they don't."""
    config = load_config(config_path)
    configure_logs(config.log.model_copy(update={"level": "error"}), known_secrets(config_path), sys.stderr)
    chosen = _choose(config.cameras, names)
    tested = asyncio.run(_test_all(chosen, DetectorInput(config.detector.size_px)))
    _print_lines(tested) if as_lines else _print_table(tested)
    if any(one.failure for one in tested):
        raise SystemExit(1)


def _choose(configured: Sequence[CameraSettings], names: Sequence[str]) -> list[CameraSettings]:
    known = {camera.name: camera for camera in configured}
    if unknown := sorted(set(names) - set(known)):
        raise click.UsageError(f"no camera is called {unknown[0]!r}; there is: {', '.join(known) or 'none'}")
    chosen = [known[name] for name in names] or [camera for camera in configured if camera.enabled]
    if not chosen:
        raise click.ClickException("no camera is configured: there is no enabled [[cameras]] in the file")
    return chosen


async def _test_all(chosen: Sequence[CameraSettings], input_size: DetectorInput) -> list[Tested]:
    return list(await asyncio.gather(*(_test(settings, input_size) for settings in chosen)))


async def _test(settings: CameraSettings, input_size: DetectorInput) -> Tested:
    patience_s = START_S + settings.open_timeout_s + settings.read_timeout_s
    async with Camera(settings, input_size) as camera:
        try:
            async with asyncio.timeout(patience_s):
                first = await _first_word(camera)
        except TimeoutError:
            return Tested(settings.name, settings.redacted, f"no picture in {patience_s:g} s")
        if isinstance(first, Lost):
            return Tested(settings.name, settings.redacted, f"{first.cause}: {first.reason}")
        if not isinstance(first, Opened):
            return Tested(settings.name, settings.redacted, "there is no picture in it that can be read")
        fps = await _measure_fps(camera) if settings.is_live else first.fps
        shows = camera.stats.state
    return Tested(settings.name, settings.redacted, shows=shows, **(asdict(first) | {"fps": fps}))


async def _first_word(camera: Camera) -> object:
    while isinstance(event := await camera.next(), Frame):
        camera.release(event)
    return event


async def _measure_fps(camera: Camera) -> float | None:
    """Frames a second that really arrive, whatever the stream says about itself."""
    await _drain(camera, SETTLE_S)
    from_s, grabbed = camera.stats.reported_s, camera.stats.frames_grabbed
    await _drain(camera, MEASURE_S)
    span_s = camera.stats.reported_s - from_s
    return round((camera.stats.frames_grabbed - grabbed) / span_s, 1) if span_s > 0 else None


async def _drain(camera: Camera, duration_s: float) -> None:
    try:
        async with asyncio.timeout(duration_s):
            while True:
                if isinstance(event := await camera.next(), Frame):
                    camera.release(event)
    except TimeoutError:
        return


def _print_lines(tested: Sequence[Tested]) -> None:
    for one in tested:
        click.echo(json.dumps({"reachable": not one.failure} | asdict(one), ensure_ascii=False))


def _print_table(tested: Sequence[Tested]) -> None:
    """What a camera or FFmpeg says goes out as plain text: markup in it stays markup."""
    table = Table("camera", "", "codec", "size", "fps", "first frame", "url")
    table.columns[-1].overflow = "fold"
    for one in tested:
        table.add_row(Text(one.camera), *_cells(one), Text(one.url))
    console = Console()
    console.print(table)
    for one in tested:
        if one.failure:
            console.print(Text(f"{one.camera}: {one.failure}", "red"))


def _cells(one: Tested) -> list[Text]:
    if one.failure:
        return [Text("no picture", "red"), *[Text("")] * 4]
    unwell = one.shows in {CameraState.BLACK, CameraState.FROZEN, CameraState.DAMAGED}
    state = Text(f"reachable, but {one.shows}", "yellow") if unwell else Text("reachable", "green")
    fps = "?" if one.fps is None else f"{one.fps:.1f}"
    first = f"{one.time_to_first_frame_s:.2f} s" if one.time_to_first_frame_s is not None else "?"
    return [state, *map(Text, (one.codec, f"{one.width}×{one.height}", fps, first))]
