"""Model servers that the daemon starts and keeps alive: one lva-model for each provider that says `managed`.

Each is a process of its own: what goes wrong in it is a provider that fails, no more.
"""

import asyncio
import json
import os
import sys
from collections.abc import Collection, Sequence
from contextlib import suppress
from typing import Never
from urllib.parse import urlsplit

import structlog

from providers.local.settings import LocalConfig, ServerSettings
from providers.moondream import base_url
from providers.settings import MoondreamSettings, ProviderSettings

log = structlog.get_logger()

RESTART_FIRST_S = 1.0
RESTART_MAX_S = 60.0
WELL_AFTER_S = 60.0
"""Who lived this long was well: the next restart is soon."""
STOP_S = 10.0
LINE_MAX = 256 * 1024


class ModelServers:
    """Those that the settings want, whenever `apply` says so anew; while `run` runs."""

    def __init__(self) -> None:
        self._group: asyncio.TaskGroup | None = None
        self._wanted: dict[str, MoondreamSettings] = {}
        self._tasks: dict[str, asyncio.Task[Never]] = {}
        self._ending: set[asyncio.Task[Never]] = set()

    async def run(self) -> Never:
        async with asyncio.TaskGroup() as self._group:
            wanted, self._wanted = self._wanted, {}
            self.apply(tuple(wanted.values()))
            await asyncio.Event().wait()
        raise AssertionError

    def apply(self, settings: Sequence[ProviderSettings]) -> None:
        """A server whose settings are the same is left alone."""
        wanted = {one.name or one.kind: one for one in settings if isinstance(one, MoondreamSettings) and one.managed}
        changed = [name for name in self._tasks if wanted.get(name) != self._wanted.get(name)]
        ending = {self._tasks.pop(name) for name in changed}
        for task in ending:
            task.cancel()
        self._ending = {task for task in self._ending if not task.done()} | ending
        self._wanted = wanted
        for name in wanted.keys() - self._tasks.keys() if self._group else ():
            assert self._group is not None
            server = _supervise(name, wanted[name], frozenset(self._ending))
            self._tasks[name] = self._group.create_task(server, name=f"model server {name}")


def local_config(settings: MoondreamSettings) -> LocalConfig:
    """What its server is told: it listens where the provider asks."""
    assert settings.server is not None
    address = urlsplit(base_url(settings))
    server = ServerSettings(host=address.hostname or "127.0.0.1", port=address.port or 80)
    return LocalConfig(model=settings.server, server=server)


async def _supervise(name: str, settings: MoondreamSettings, after: Collection[asyncio.Task[Never]]) -> Never:
    """Start it, when those that were there before have ended and left their address, and whenever it has ended."""
    if after:
        await asyncio.wait(after)
    loop = asyncio.get_running_loop()
    pause_s = RESTART_FIRST_S
    while True:
        began_s = loop.time()
        status = await _live(name, settings)
        pause_s = RESTART_FIRST_S if loop.time() - began_s > WELL_AFTER_S else min(2 * pause_s, RESTART_MAX_S)
        log.error("model_server.died", provider=name, status=status, retry_s=pause_s)
        await asyncio.sleep(pause_s)


async def _live(name: str, settings: MoondreamSettings) -> int:
    """One process's life; its exit status."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "providers.local", "--config", "-", "--parent", str(os.getpid())),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        limit=LINE_MAX,
        start_new_session=True,  # a Ctrl-C is for the daemon, which drains first
    )
    log.info("model_server.started", provider=name, pid=process.pid)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        with suppress(ConnectionError):
            process.stdin.write(local_config(settings).model_dump_json().encode())
            process.stdin.close()
        await _pass_on(name, process.stdout)
        return await process.wait()
    finally:
        await _end(process)


async def _pass_on(name: str, output: asyncio.StreamReader) -> None:
    """Its log becomes ours, a line each; what is no line of a log is passed on as it is."""
    while True:
        try:
            line = await output.readline()
        except ValueError:  # longer than any line of a log
            continue
        if not line:
            return
        try:
            told = json.loads(line)
            event, level = told.pop("event"), told.pop("level", "info")
        except (ValueError, KeyError, AttributeError):
            log.warning("model_server.said", provider=name, line=line.decode(errors="replace").rstrip()[:2000])
            continue
        told.pop("timestamp", None)
        getattr(log, level if level in ("debug", "warning", "error") else "info")(event, provider=name, **told)


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    process.terminate()
    try:
        async with asyncio.timeout(STOP_S):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
