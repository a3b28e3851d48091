"""What can be asked over HTTP: how the daemon is. It only tells; nothing secret, no picture, no configuration."""

import asyncio
import json
import logging
import platform
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

import structlog
from aiohttp import web
from aiohttp.http import HttpProcessingError

from daemon.http_settings import HttpSettings
from daemon.metrics import CONTENT_TYPE, exposition
from daemon.percentiles import figures
from daemon.snapshot import VERSION, Snapshot, troubles
from daemon.tasks import side_tasks
from pipeline.camera import CameraState
from pipeline.stages import Stages

log = structlog.get_logger()

CONNECTIONS_MAX = 16
CONNECTION_S = 10.0
"""Each connection is for one short request; one on which nothing happens would hold a file descriptor for ever."""
HEADER_BYTES_MAX = 4096
RETRY_S = 60.0
CLOSE_S = 1.0


class Surface:
    """The pages, each by its path."""

    def __init__(
        self,
        settings: HttpSettings,
        snapshot: Callable[[], Snapshot],
        stages: Stages,
        stale: Callable[[], list[str]],
        missing: Callable[[], list[str]],
    ) -> None:
        """`stale` names the parts that make no progress, `missing` those that are not there yet; both are asked each
        time."""
        self._host = settings.host.lower()
        self._snapshot = snapshot
        self._stages = stages
        self._stale = stale
        self._missing = missing
        self._pages: dict[str, Callable[[], Awaitable[web.Response]]] = {
            "/healthz": self._health,
            "/readyz": self._readiness,
            "/metrics": self._metrics,
            "/api/stats": self._stats,
            "/api/version": self._version,
        }

    async def answer(self, request: web.BaseRequest) -> web.Response:
        response = await self._answer(request)
        response.headers.update({"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"})
        response.force_close()
        return response

    async def _answer(self, request: web.BaseRequest) -> web.Response:
        if not self._is_meant(request.headers.get("Host", "")):
            return _json({"error": "this name is not mine"}, status=421)
        if request.method not in ("GET", "HEAD"):
            return _json({"error": "only GET and HEAD"}, status=405, headers={"Allow": "GET, HEAD"})
        if (page := self._pages.get(request.path)) is None:
            return _json({"error": "no such page", "pages": list(self._pages)}, status=404)
        return await page()

    def _is_meant(self, host: str) -> bool:
        """By its own name or by an address. Any other name is a stranger's, made to lead here so that a web page may
        read what it must not (DNS rebinding)."""
        try:
            name = urlsplit(f"//{host}").hostname or ""
            if name in ("localhost", self._host):
                return True
            ip_address(name)
        except ValueError:
            return False
        return True

    async def _health(self) -> web.Response:
        stale = self._stale()
        return _json({"status": "stuck" if stale else "ok", "stale": stale}, status=503 if stale else 200)

    async def _readiness(self) -> web.Response:
        missing = [*self._missing(), *_unknown(self._snapshot())]
        return _json({"status": "waiting" if missing else "ok", "missing": missing}, status=503 if missing else 200)

    async def _metrics(self) -> web.Response:
        text = await asyncio.to_thread(exposition, self._snapshot(), self._stages)
        return web.Response(body=text, headers={"Content-Type": CONTENT_TYPE})

    async def _stats(self) -> web.Response:
        now = self._snapshot()
        starting = [f"not ready: {each}" for each in [*self._missing(), *_unknown(now)]]
        stuck = [f"{name} makes no progress" for name in self._stale()]
        stages = [asdict(each) for each in figures(self._stages)]
        return _json({"troubles": [*starting, *stuck, *troubles(now)], **asdict(now), "stages": stages})

    async def _version(self) -> web.Response:
        return _json({"version": VERSION, "python": platform.python_version(), "machine": platform.machine()})


def _unknown(now: Snapshot) -> list[str]:
    """A provider's state is known from the start: up, until it has failed. Nobody is asked just to find out."""
    states = [camera.state for camera in now.cameras]
    nothing_seen = states and all(state is CameraState.CONNECTING for state in states)
    return ["cameras: none has been reached or given up yet"] if nothing_seen else []


def _json(content: Any, *, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    return web.json_response(content, status=status, headers=headers, dumps=_dump)


def _dump(content: Any) -> str:
    return json.dumps(content, ensure_ascii=False, indent=1) + "\n"


class _Door(web.Server):
    """Lets few in at a time, and nobody for long."""

    def __init__(self, answer: Callable[[web.BaseRequest], Awaitable[web.Response]], connection_s: float) -> None:
        logger = logging.getLogger("aiohttp.server.surface")
        logger.addFilter(_is_our_error)
        super().__init__(
            answer,
            access_log=None,
            logger=logger,
            max_line_size=HEADER_BYTES_MAX,
            max_field_size=HEADER_BYTES_MAX,
            lingering_time=0.0,
        )
        self._connection_s = connection_s
        self._deadlines: dict[web.RequestHandler, asyncio.TimerHandle] = {}

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        super().connection_made(handler, transport)
        if len(self._deadlines) >= CONNECTIONS_MAX:
            transport.abort()
            return
        loop = asyncio.get_running_loop()
        self._deadlines[handler] = loop.call_later(self._connection_s, transport.abort)

    def connection_lost(self, handler: web.RequestHandler, exc: BaseException | None = None) -> None:
        super().connection_lost(handler, exc)
        if deadline := self._deadlines.pop(handler, None):
            deadline.cancel()


def _is_our_error(record: logging.LogRecord) -> bool:
    """A request that breaks HTTP is its sender's: it gets a 400, and must not fill the log."""
    return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))


@asynccontextmanager
async def http_surface(
    settings: HttpSettings,
    snapshot: Callable[[], Snapshot],
    stages: Stages,
    *,
    stale: Callable[[], list[str]],
    missing: Callable[[], list[str]],
    connection_s: float = CONNECTION_S,
    retry_s: float = RETRY_S,
) -> AsyncIterator[asyncio.Event]:
    """Answer while the body runs; the event says that somebody listens. Where that can't be, the body runs all the
    same, and it is tried again after `retry_s`: a page about the work must not stop the work."""
    listening = asyncio.Event()
    if not settings.enabled:
        yield listening
        return
    surface = Surface(settings, snapshot, stages, stale, missing)
    door = _Door(surface.answer, connection_s)
    async with side_tasks(http=_listen_for_ever(settings, door, listening, retry_s)):
        yield listening


async def _listen_for_ever(settings: HttpSettings, door: _Door, listening: asyncio.Event, retry_s: float) -> None:
    server = await _bind(settings, door, retry_s)
    if _is_loopback(settings.host):
        log.info("http.ready", address=settings.address)
    else:
        log.warning("http.open", address=settings.address, hint="whoever gets there can read it: there is no password")
    listening.set()
    try:
        await asyncio.get_running_loop().create_future()
    finally:
        server.close()
        await door.shutdown(CLOSE_S)


async def _bind(settings: HttpSettings, door: _Door, retry_s: float) -> asyncio.Server:
    told = False
    while True:
        try:
            return await asyncio.get_running_loop().create_server(door, settings.host, settings.port)
        except (OSError, UnicodeError) as error:
            if not told:
                reason = getattr(error, "strerror", None) or str(error)
                log.error("http.failed", address=settings.address, reason=reason, retry_s=retry_s)
                told = True
        await asyncio.sleep(retry_s)


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"
