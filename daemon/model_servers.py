"""Model servers that the daemon starts and keeps alive: one lva-model for each provider that says `managed`.

Each is a process of its own: what goes wrong in it is a provider that fails, no more.
"""

import asyncio
import json
import os
import sys
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
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


@dataclass(slots=True)
class _Server:
    settings: MoondreamSettings
    settled: asyncio.Event = field(default_factory=asyncio.Event)
    """It has been ready, or has died, for the first time."""
    task: asyncio.Task[Never] | None = None


class ModelServers:
    """Those that the settings want, whenever `apply` says so anew; while `run` runs."""

    def __init__(self) -> None:
        self._group: asyncio.TaskGroup | None = None
        self._servers: dict[str, _Server] = {}
        self._ending: set[asyncio.Task[Never]] = set()

    async def run(self) -> Never:
        async with asyncio.TaskGroup() as self._group:
            self._start()
            await asyncio.Event().wait()
        raise AssertionError

    def apply(self, settings: Sequence[ProviderSettings]) -> None:
        """A server whose settings are the same is left alone."""
        wanted = {one.name or one.kind: one for one in settings if isinstance(one, MoondreamSettings) and one.managed}
        for name in [name for name, server in self._servers.items() if wanted.get(name) != server.settings]:
            if task := self._servers.pop(name).task:
                task.cancel()
                self._ending.add(task)
                task.add_done_callback(self._ending.discard)
        for name in wanted.keys() - self._servers.keys():
            self._servers[name] = _Server(wanted[name])
        self._start()

    def _start(self) -> None:
        for name, server in self._servers.items() if self._group else ():
            if server.task is None:
                assert self._group is not None
                supervising = _supervise(name, server, frozenset(self._ending))
                server.task = self._group.create_task(supervising, name=f"model server {name}")

    async def settled(self) -> None:
        """When each of them has been ready, or has died, for the first time."""
        await asyncio.gather(*(server.settled.wait() for server in self._servers.values()))


def local_config(settings: MoondreamSettings) -> LocalConfig:
    """What its server is told: it listens where the provider asks."""
    assert settings.server is not None
    address = urlsplit(base_url(settings))
    server = ServerSettings(host=address.hostname or "127.0.0.1", port=address.port or 80)
    return LocalConfig(model=settings.server, server=server)


async def _supervise(name: str, server: _Server, after: Collection[asyncio.Task[Never]]) -> Never:
    """Start it, when those that were there before have ended and left their address, and whenever it has ended."""
    if after:
        await asyncio.wait(after)
    loop = asyncio.get_running_loop()
    pause_s = RESTART_FIRST_S
    while True:
        began_s = loop.time()
        status = await _live(name, server)
        server.settled.set()
        pause_s = RESTART_FIRST_S if loop.time() - began_s > WELL_AFTER_S else min(2 * pause_s, RESTART_MAX_S)
        log.error("model_server.died", provider=name, status=status, retry_s=pause_s)
        await asyncio.sleep(pause_s)


async def _live(name: str, server: _Server) -> int:
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
            process.stdin.write(local_config(server.settings).model_dump_json().encode())
            process.stdin.close()
        await _pass_on(name, process.stdout, server.settled)
        return await process.wait()
    finally:
        await _end(process)


async def _pass_on(name: str, output: asyncio.StreamReader, ready: asyncio.Event) -> None:
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
        if event == "model.ready":
            ready.set()
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
