"""`lva analyze`: questions about picture files, without cameras, detector or database."""

import asyncio
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from uuid6 import uuid7

from daemon.commands.asked import RULES, questions_from
from daemon.commands.options import config_option
from daemon.commands.results import (
    Csv,
    Form,
    JsonLines,
    NotResultsError,
    Row,
    appending,
    error_row,
    row_of,
)
from daemon.config import known_secrets, load_config
from daemon.logs import configure_logs
from pipeline.pictures import PictureError, load_jpeg, pictures_in
from pipeline.questions import DEFAULT_QUESTIONS
from providers.base import Analysis, Failure, Outcome, Question, Request
from providers.chain import ProviderChain
from providers.open import open_providers
from providers.settings import ProviderSettings

PATIENCE_S = 20.0
"""Longer than this, a provider that is paused or down isn't waited for: the picture is left to the next
run."""

MAX_WAITS = 5

NOBODY_LOOKS = (
    "Only `detections` is configured, and without a camera it has seen nothing: every answer will be unknown."
    " Add a [[providers]] section that looks at pictures."
)

Picture = tuple[str, bytes | None, str]
"""Name, JPEG, and what is wrong where there is none."""


@click.command(epilog=RULES)
@click.argument("paths", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--question", "texts", multiple=True, metavar="[NAME=]TEXT", help="What to ask; see below.")
@click.option("--json", "json_file", is_flag=False, flag_value="-", metavar="[FILE]", help="JSON lines; the default.")
@click.option("--csv", "csv_file", type=click.Path(dir_okay=False), metavar="FILE", help="A table.")
@config_option
def analyze(
    paths: tuple[Path, ...],
    texts: tuple[str, ...],
    json_file: str | None,
    csv_file: str | None,
    config_path: Path,
) -> None:
    """Ask about pictures and folders of pictures; without --question, what the configuration asks.

    Rows are written as they come, one per picture. With a FILE that already holds rows, the pictures in it
    that were answered are left out, and the rest is appended: start the same command again to go on.
    """
    if json_file and csv_file:
        raise click.UsageError("either --json or --csv")
    config = load_config(config_path)
    configure_logs(config.log, known_secrets(config_path), sys.stderr)
    configured = tuple(one.question for one in config.questions) or DEFAULT_QUESTIONS
    questions = questions_from(texts) or configured
    looking = [one for one in config.providers if one.kind != "detections"]
    if not looking:
        click.echo(NOBODY_LOOKS, err=True)
    form: Form = Csv(questions) if csv_file else JsonLines(questions)
    name = csv_file or json_file or "-"
    try:
        with _output(name, form) as (answered, write):
            wanted = [path for path in pictures_in(paths) if str(path) not in answered]
            progress = _progress(shown=name != "-" or not sys.stdout.isatty())
            failed = asyncio.run(_analyze_all(wanted, questions, looking, write, progress))
    except NotResultsError as error:
        raise click.ClickException(f"{name} is left as it is: {error}") from error
    if failed:
        raise SystemExit(1)


@contextmanager
def _output(name: str, form: Form) -> Iterator[tuple[set[str], Callable[[Row], None]]]:
    """What was answered before, and where rows go: each is written whole, so that a Ctrl-C leaves whole
    rows."""

    def writer(file: IO[str]) -> Callable[[Row], None]:
        def write(row: Row) -> None:
            file.write(form.line(row))
            file.flush()

        return write

    if name == "-":
        yield set(), writer(sys.stdout)
    else:
        with appending(Path(name), form) as (answered, file):
            yield answered, writer(file)


async def _analyze_all(
    paths: Sequence[Path],
    questions: tuple[Question, ...],
    providers: Sequence[ProviderSettings],
    write: Callable[[Row], None],
    progress: Progress,
) -> int:
    """Read, ask and write at the same time; how many pictures failed."""
    failed = 0
    async with open_providers(providers) as chain:
        consumers = max(one.limits.pictures_at_once for one in chain.providers)
        pictures: asyncio.Queue[Picture | None] = asyncio.Queue(maxsize=2 * consumers)
        with progress:
            bar = progress.add_task("pictures", total=len(paths))

            async def consume() -> None:
                nonlocal failed
                while (picture := await pictures.get()) is not None:
                    row = await _row(chain, picture, questions)
                    failed += row["status"] == "error"
                    write(row)
                    progress.advance(bar)

            async with asyncio.TaskGroup() as group:
                group.create_task(_produce(paths, pictures, consumers), name="read pictures")
                for number in range(consumers):
                    group.create_task(consume(), name=f"ask {number}")
    return failed


async def _produce(paths: Sequence[Path], pictures: asyncio.Queue[Picture | None], consumers: int) -> None:
    for path in paths:
        try:
            await pictures.put((str(path), await asyncio.to_thread(load_jpeg, path), ""))
        except PictureError as error:
            await pictures.put((str(path), None, str(error)))
    for _ in range(consumers):
        await pictures.put(None)


async def _row(chain: ProviderChain, picture: Picture, questions: tuple[Question, ...]) -> Row:
    name, jpeg, wrong = picture
    if jpeg is None:
        return error_row(name, wrong)
    return row_of(name, await _ask(chain, Request(uuid7(), jpeg, questions)))


async def _ask(chain: ProviderChain, request: Request) -> Outcome:
    """Where nobody could be asked for a moment, wait for that moment; there is no queue here to keep the
    work."""
    for _ in range(MAX_WAITS):
        [outcome] = await chain.analyze([request])
        if isinstance(outcome, Analysis) or outcome.failure is not Failure.UNAVAILABLE:
            return outcome
        wait_s = outcome.retry_after_s or 0.0
        if not 0 < wait_s <= PATIENCE_S:
            return outcome
        await asyncio.sleep(wait_s)
    return outcome


def _progress(*, shown: bool) -> Progress:
    """A bar on a terminal, and not where the rows themselves go to one."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=not shown or not sys.stderr.isatty(),
    )
