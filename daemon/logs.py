"""Logs as events: JSON lines for machines, colours for a person at a terminal; never a secret."""

import io
import logging
import re
import sys
from collections.abc import Iterable
from contextlib import suppress
from typing import Literal, TextIO, cast
from urllib.parse import quote

import structlog
from pydantic import Field
from structlog.typing import EventDict, Processor, WrappedLogger

from providers.settings import Section

_USERINFO = re.compile(r"(?<=://)[^/\s]+@")
_QUERY_SECRET = re.compile(r"(?i)([?&](?:token|key|password|passwd|pwd|secret|api_key|auth)=)[^&\s\"']+")
_SHORTEST_SECRET = 4
"""Shorter values are not masked by value: masking every 'ab' would only garble the log."""
MASK = "***"

_FIRST_KEYS = ("timestamp", "level", "event", "camera")


class LogSettings(Section):
    level: Literal["debug", "info", "warning", "error"] = Field("info", description="The least that is written")
    format: Literal["auto", "json", "console"] = Field(
        "auto", description="auto: colours on a terminal, JSON elsewhere"
    )
    summary_s: float = Field(60.0, gt=0, description="How often the summary line is written")


class Redactor:
    """Takes known secrets and credentials in URLs out of texts."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        values = {
            form for secret in secrets for form in (secret, quote(secret, safe="")) if len(secret) >= _SHORTEST_SECRET
        }
        longest_first = sorted(values, key=len, reverse=True)
        self._known = re.compile("|".join(map(re.escape, longest_first))) if longest_first else None

    def __call__(self, text: str) -> str:
        if self._known:
            text = self._known.sub(MASK, text)
        if "://" in text:
            text = _USERINFO.sub(f"{MASK}@", text)
            text = _QUERY_SECRET.sub(rf"\g<1>{MASK}", text)
        return text

    def value(self, value: object) -> object:
        """The same for whatever a log event holds; numbers pass, everything unknown is taken by its text."""
        if value is None or isinstance(value, bool | int | float):
            return value
        if isinstance(value, dict):
            return {key: self.value(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.value(item) for item in value]
        return self(str(value))

    def processor(self, _logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        """The last step before rendering: nothing secret, and what every line has stands first."""
        first = {key: event.pop(key) for key in _FIRST_KEYS if key in event}
        return {key: self.value(value) for key, value in (*first.items(), *event.items())}


class Unbreakable(io.TextIOBase):
    """A stream whose reader may go away, or whose disk may be full: that line is lost, and the work goes on."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with suppress(OSError):
            return self._stream.write(text)
        return 0

    def flush(self) -> None:
        with suppress(OSError):
            self._stream.flush()


def configure_logs(settings: LogSettings, secrets: Iterable[str] = (), stream: TextIO | None = None) -> None:
    """Set up structlog, and bring what libraries log by the standard module into the same lines."""
    stream = stream or sys.stdout
    as_json = settings.format == "json" or (settings.format == "auto" and not stream.isatty())
    render: Processor = (
        structlog.processors.JSONRenderer(ensure_ascii=False)
        if as_json
        else structlog.dev.ConsoleRenderer(colors=stream.isatty())
    )
    first: list[Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="timestamp"),
    ]
    last: list[Processor] = [structlog.processors.format_exc_info, Redactor(secrets).processor, render]
    sink = cast(TextIO, Unbreakable(stream))
    structlog.configure(
        processors=[*first, *last],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[settings.level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(sink),
        cache_logger_on_first_use=False,
    )
    _bring_in_standard_logging(sink, first, last)


def _bring_in_standard_logging(sink: TextIO, first: list[Processor], last: list[Processor]) -> None:
    handler = logging.StreamHandler(sink)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*first, _name_the_library],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.captureWarnings(True)


def _name_the_library(logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    record: logging.LogRecord = event["_record"]
    return {**event, "event": "library.log", "message": event["event"], "logger": record.name}
