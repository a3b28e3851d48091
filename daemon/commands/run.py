"""`lva run`: the daemon itself."""

import asyncio
import faulthandler
import signal
import sys
from pathlib import Path

import click
import structlog
import uvloop

from daemon.app import serve
from daemon.commands.options import config_option
from daemon.config import Config, ConfigError, known_secrets, load_config
from daemon.logs import DaemonLogs, configure_daemon_logs
from daemon.reload import LoadConfig
from daemon.systemd import Notifier
from pipeline.journal_schema import JournalError
from pipeline.yolo import DetectorBrokenError, DetectorError
from providers.allocator import keep_few_heaps

log = structlog.get_logger()


@click.command()
@config_option
@click.option("--until-eof", is_flag=True, help="Watch file cameras to their end, drain, upload, and exit.")
def run(config_path: Path, until_eof: bool) -> None:
    """Watch the cameras until SIGTERM or Ctrl-C."""
    config = load_config(config_path)
    logs = configure_daemon_logs(config.log, known_secrets(config_path))
    faulthandler.enable()
    keep_few_heaps()
    load = LoadConfig(lambda: (load_config(config_path), known_secrets(config_path)), logs.redactor.add_secrets)
    try:
        finished = uvloop.run(_until_stopped(config, logs, load, until_eof))
    except* (ConfigError, DetectorError) as wrong:
        raise ConfigError([str(error) for error in _leaves(wrong)]).of(config_path) from None
    except* (JournalError, DetectorBrokenError) as failed:
        log.error("daemon.failed", error="; ".join(str(error) for error in _leaves(failed)))
        sys.exit(1)
    sys.exit(0 if finished or not until_eof else 1)


async def _until_stopped(config: Config, logs: DaemonLogs, load: LoadConfig, until_eof: bool) -> bool:
    stop = asyncio.Event()
    notifier = Notifier()
    task = asyncio.current_task()
    assert task is not None

    def stopped(name: str) -> None:
        """The first asks for an orderly end, the second does not wait for it."""
        if stop.is_set():
            log.warning("daemon.forced", signal=name)
            task.cancel()
        else:
            notifier.stopping()
            log.info("daemon.stopping", signal=name)
            stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped, number.name)
    if until_eof:
        loop.add_signal_handler(signal.SIGHUP, stopped, "SIGHUP")
    else:
        loop.add_signal_handler(signal.SIGHUP, load.wanted.set)
    try:
        return await serve(config, stop, notifier, logs, load, until_eof)
    except asyncio.CancelledError:
        return False


def _leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    found: list[BaseException] = []
    for error in group.exceptions:
        found += _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found
