"""`lva providers test`: each configured provider by itself, asked for real."""

import asyncio
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import cv2
import numpy as np
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text
from uuid6 import uuid7

from daemon.commands.options import config_option
from daemon.config import Config, ConfigError, known_secrets, load_config
from daemon.logs import configure_logs
from pipeline.detector import DetectorSettings, open_detector
from pipeline.pictures import PictureError, load_jpeg
from pipeline.questions import DEFAULT_QUESTIONS
from pipeline.yolo import DetectorError
from providers.base import Analysis, Answer, AnswerStatus, ProviderError, QuestionKind, Request, as_json
from providers.open import open_providers
from providers.settings import DetectionsSettings, ProviderSettings


@dataclass(frozen=True, slots=True)
class Tested:
    """How one provider did; `failure` is empty where it answered."""

    provider: str
    model: str = ""
    failure: str = ""
    latency_ms: float = 0.0
    probe_ms: float = 0.0
    answers: tuple[Answer, ...] = ()


@click.group()
def providers() -> None:
    """Who answers questions about pictures."""


@providers.command()
@click.argument("image", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--json", "as_lines", is_flag=True, help="One JSON object a line, for programs.")
@config_option
def test(image: Path, as_lines: bool, config_path: Path) -> None:
    """Ask every configured provider about IMAGE, each by itself, and show what it understood.

    Providers that cost money are asked as well: twice, once to see that they are there.
    """
    config = load_config(config_path)
    configure_logs(config.log, known_secrets(config_path), sys.stderr)
    try:
        jpeg = load_jpeg(image)
    except PictureError as error:
        raise click.ClickException(f"{image}: {error}") from error
    try:
        tested = asyncio.run(_test_all(config, jpeg))
    except DetectorError as error:
        raise ConfigError([str(error)]).of(config_path) from None
    _print_lines(tested) if as_lines else _print_table(tested)
    if any(one.failure for one in tested):
        raise SystemExit(1)


async def _test_all(config: Config, jpeg: bytes) -> list[Tested]:
    """One after another: they may share a machine, and each latency is to be its own."""
    request = await _request(config.detector, jpeg)
    return [await _test(one, request) for one in config.providers or (DetectionsSettings(kind="detections"),)]


async def _request(settings: DetectorSettings, jpeg: bytes) -> Request:
    """What a worker would ask with: also what the configured detector sees in the picture, if there is one."""
    if settings.model is None:
        return Request(uuid7(), jpeg, DEFAULT_QUESTIONS)
    async with open_detector(settings) as detector:
        picture = np.asarray(cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR), np.uint8)
        found = await detector.look(picture)
        return Request(uuid7(), jpeg, DEFAULT_QUESTIONS, found.as_tuple(), detector.labels, detector.name)


async def _test(settings: ProviderSettings, request: Request) -> Tested:
    async with open_providers([settings]) as chain:
        (provider,) = chain.providers
        started_s = time.monotonic()
        try:
            model = await provider.probe()
        except ProviderError as error:
            return Tested(provider.name, failure=f"probe: {error}", probe_ms=_ms_since(started_s))
        probe_ms = _ms_since(started_s)
        started_s = time.monotonic()
        outcome = await provider.ask(request)
        latency_ms = _ms_since(started_s)
        if not isinstance(outcome, Analysis):
            return Tested(provider.name, model, str(outcome), latency_ms, probe_ms)
        model = outcome.model_version or outcome.model or model
        return Tested(provider.name, model, "", latency_ms, probe_ms, outcome.answers)


def _ms_since(started_s: float) -> float:
    return round((time.monotonic() - started_s) * 1000, 1)


def _print_lines(tested: Sequence[Tested]) -> None:
    for one in tested:
        click.echo(
            json.dumps(
                {
                    "provider": one.provider,
                    "ok": not one.failure,
                    "model": one.model,
                    "failure": one.failure or None,
                    "probe_ms": one.probe_ms,
                    "latency_ms": one.latency_ms,
                    "answers": {answer.question.name: _answer(answer) for answer in one.answers},
                }
            )
        )


def _answer(answer: Answer) -> dict[str, Any]:
    told = {"value": as_json(answer.value), "status": str(answer.status)}
    return told | ({"raw": answer.raw} if answer.status is AnswerStatus.ERROR else {})


def _print_table(tested: Sequence[Tested]) -> None:
    """Models' words as plain text: markup in them stays markup."""
    answers = Column("answers", overflow="fold")
    table = Table("provider", "model", "", "probe ms", "answer ms", answers, show_lines=True)
    for one in tested:
        state = Text("failed", "red") if one.failure else Text("ok", "green")
        words = one.failure or "\n".join(_line(answer) for answer in one.answers)
        table.add_row(
            Text(one.provider),
            Text(one.model),
            state,
            f"{one.probe_ms:.0f}",
            f"{one.latency_ms:.0f}",
            Text(words),
        )
    Console().print(table)


def _line(answer: Answer) -> str:
    if answer.status is AnswerStatus.OK and answer.question.kind in (QuestionKind.BOXES, QuestionKind.POINTS):
        return f"{answer.question.name}: {len(as_json(answer.value))} {answer.question.kind} (--json shows them)"
    if answer.status is AnswerStatus.OK:
        return f"{answer.question.name}: {json.dumps(as_json(answer.value), ensure_ascii=False)}"
    said = f" ({answer.raw[:80]!r})" if answer.raw else ""
    return f"{answer.question.name}: {answer.status}{said}"
