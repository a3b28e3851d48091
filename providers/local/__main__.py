"""lva-model: a model behind HTTP, in a process of its own."""

import argparse
import asyncio
import os
import signal
import sys
from concurrent.futures import Future
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import structlog
import tomli
from pydantic import ValidationError

from providers.allocator import give_large_blocks_back, keep_few_heaps
from providers.local.engine import Engine, open_engine
from providers.local.errors import ModelError
from providers.local.server import Service, listening
from providers.local.settings import LocalConfig
from providers.parent import die_with_the_parent

log = structlog.get_logger()

EX_CONFIG = 78
"""As sysexits.h has it: another start would fail the same way."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="lva-model", description=__doc__)
    parser.add_argument("--config", metavar="FILE", help="TOML with [model] and [server]; -: the same as JSON on stdin")
    parser.add_argument("--parent", type=int, metavar="PID", help="end when this process does, which started it")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    checking = commands.add_parser("check-vectors", help="compare the engine with recorded answers of the reference")
    checking.add_argument("folder", type=Path)
    checking.add_argument("--device", default="cpu")
    checking.add_argument("--precision", default="f32", choices=["f32", "bf16", "f16", "int8", "int4"])
    args = parser.parse_args()
    _configure_logs()
    if args.command == "check-vectors":
        sys.exit(_check_vectors(args.folder, args.device, args.precision))
    if args.parent:
        die_with_the_parent(args.parent)
    if not args.config:
        parser.error("--config FILE is needed")
    try:
        config = read_config() if args.config == "-" else load_config(Path(args.config))
        token = read_token(config)
    except ModelError as error:
        print(f"lva-model: {error}", file=sys.stderr)
        sys.exit(EX_CONFIG)
    keep_few_heaps()
    give_large_blocks_back()
    sys.exit(asyncio.run(serve(config, token)))


def load_config(file: Path) -> LocalConfig:
    """Paths in it are relative to it. Raises ModelError."""
    try:
        tables = tomli.loads(file.read_text("utf-8"))
    except OSError as error:
        raise ModelError(f"{file}: {error.strerror}") from error
    except (tomli.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ModelError(f"{file}: {error}") from error
    try:
        return LocalConfig.model_validate(tables, context={"base_dir": file.resolve().parent})
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
        raise ModelError(f"{file}: {problems}") from error


def read_config() -> LocalConfig:
    """What the daemon says. Raises ModelError."""
    try:
        return LocalConfig.model_validate_json(sys.stdin.buffer.read())
    except ValidationError as error:
        raise ModelError(f"stdin: {error}") from error


def read_token(config: LocalConfig) -> str:
    """Raises ModelError where the file is not there, or empty: a server without the password that was meant for it
    would be open."""
    if not (file := config.server.token_file):
        return ""
    try:
        token = file.read_text("utf-8").strip()
    except OSError as error:
        raise ModelError(f"server.token_file: {file}: {error.strerror}") from error
    if not token:
        raise ModelError(f"server.token_file: {file} is empty")
    return token


async def serve(config: LocalConfig, token: str) -> int:
    """Until a signal, or until the engine fails; the exit status. Answers from the start, with 503 while it loads."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    service = Service(config.server, config.model.folder.name, token)
    async with AsyncExitStack() as stack:
        try:
            address = await stack.enter_async_context(listening(service, config.server))
            log.info("model.loading", address=address, folder=str(config.model.folder))
            loading = asyncio.ensure_future(stack.enter_async_context(open_engine(config.model)))
            stopping = asyncio.ensure_future(stop.wait())
            await asyncio.wait({loading, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if not loading.done():
                os._exit(0)  # the thread that loads can't be stopped
            service.engine = engine = loading.result()
        except (ModelError, OSError) as error:
            log.error("model.unusable", reason=str(error))
            return EX_CONFIG
        log.info("model.ready", model=engine.version)
        return await _until(stopping, engine)


async def _until(stopping: "asyncio.Future[Any]", engine: Engine) -> int:
    failed: Future[None] = engine.failed
    ends: list[asyncio.Future[Any]] = [stopping, asyncio.wrap_future(failed)]
    await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    if failed.done():
        log.error("model.failed", reason=str(failed.exception()))
        return 1
    log.info("model.stopped")
    return 0


def _check_vectors(folder: Path, device: str, precision: str) -> int:
    from providers.local.moondream2.vectors import check

    try:
        agrees = check(folder, print, device, precision)
    except ModelError as error:
        print(f"lva-model: {error}", file=sys.stderr)
        return 2
    print("all of it agrees" if agrees else "it does NOT agree")
    return 0 if agrees else 1


def _configure_logs() -> None:
    """One line of JSON each, for journald; the daemon that manages this one passes them on."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stdout),
    )


if __name__ == "__main__":
    main()
