"""Logs as events: JSON lines for machines, colours for a person at a terminal; never a secret, and never in the way."""

import atexit
import io
import logging
import sys
import threading
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, TextIO, cast

import structlog
from pydantic import Field
from structlog.typing import EventDict, Processor, WrappedLogger

from daemon.log_writer import LogWriter
from daemon.redactor import Redactor as Redactor
from providers.settings import Section

EXIT_FLUSH_S = 1.0
"""At the end of the process, lines that nobody reads are given up after this long."""

log = structlog.get_logger()


class LogSettings(Section):
    level: Literal["debug", "info", "warning", "error"] = Field("info", description="The least that is written")
    format: Literal["auto", "json", "console"] = Field(
        "auto", description="auto: colours on a terminal, JSON elsewhere"
    )
    summary_s: float = Field(60.0, gt=0, description="How often the summary line is written")


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


def configure_logs(settings: LogSettings, secrets: Iterable[str] = (), stream: TextIO | None = None) -> Redactor:
    """Set up structlog for a command, and bring what libraries log by the standard module into the same lines."""
    stream = stream or sys.stdout
    return _configure(settings, secrets, Unbreakable(stream), stream.isatty())


@dataclass(frozen=True, slots=True)
class DaemonLogs:
    redactor: Redactor
    writer: LogWriter


def configure_daemon_logs(settings: LogSettings, secrets: Iterable[str] = ()) -> DaemonLogs:
    """The same for the daemon: to stdout, by a thread, so that it never waits for whoever reads. What ends a thread
    or the process unexpectedly is a line of the log too, so that its traceback holds no secret."""
    writer = LogWriter(sys.stdout.fileno(), _tell_dropped)
    redactor = _configure(settings, secrets, writer, sys.stdout.isatty())
    writer.start()
    atexit.register(writer.stop, EXIT_FLUSH_S)
    sys.excepthook = _tell_crash
    threading.excepthook = _tell_thread_crash
    return DaemonLogs(redactor, writer)


def _configure(settings: LogSettings, secrets: Iterable[str], sink: io.TextIOBase, is_terminal: bool) -> Redactor:
    redactor = Redactor(secrets)
    as_json = settings.format == "json" or (settings.format == "auto" and not is_terminal)
    render: Processor = (
        structlog.processors.JSONRenderer(ensure_ascii=False)
        if as_json
        else structlog.dev.ConsoleRenderer(colors=is_terminal, exception_formatter=structlog.dev.plain_traceback)
    )
    first: list[Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="timestamp"),
    ]
    last: list[Processor] = [structlog.processors.format_exc_info, redactor.processor, render]
    stream = cast(TextIO, sink)
    structlog.configure(
        processors=[*first, *last],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[settings.level.upper()]),
        logger_factory=structlog.WriteLoggerFactory(stream),
        cache_logger_on_first_use=False,
    )
    _bring_in_standard_logging(stream, first, last)
    return redactor


def _bring_in_standard_logging(stream: TextIO, first: list[Processor], last: list[Processor]) -> None:
    handler = logging.StreamHandler(stream)
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


def _tell_dropped(count: int) -> None:
    log.warning("log.dropped", count=count, hint="nobody read the log for a while; these lines are lost")


def _tell_crash(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, traceback)
    else:
        log.critical("daemon.crashed", exc_info=(kind, error, traceback))


def _tell_thread_crash(crash: threading.ExceptHookArgs) -> None:
    if crash.exc_value is not None:
        thread = crash.thread.name if crash.thread else None
        log.critical("thread.crashed", thread=thread, exc_info=(crash.exc_type, crash.exc_value, crash.exc_traceback))
