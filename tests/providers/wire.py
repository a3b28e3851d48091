"""A real HTTP server on the loopback that answers by script and remembers what it was asked."""

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True)
class Asked:
    method: str
    path: str
    headers: dict[str, str]
    body: Any


class Wire:
    """What each path answers; a path without an answer is a 404, as of most servers."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self._scripts: dict[str, list[Handler]] = {}
        self._server: TestServer | None = None

    @property
    def url(self) -> str:
        assert self._server is not None
        return str(self._server.make_url("")).rstrip("/")

    def bodies(self, path: str) -> list[Any]:
        return [one.body for one in self.asked if one.path == path]

    def on(self, path: str, *handlers: Handler) -> None:
        """One handler per call, in order; the last one stays."""
        self._scripts[path] = list(handlers)

    async def start(self) -> None:
        app = web.Application(client_max_size=1 << 24)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._server = TestServer(app, host="127.0.0.1")
        await self._server.start_server()

    async def stop(self) -> None:
        assert self._server is not None
        await self._server.close()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        text = await request.text()
        body = json.loads(text) if text else None
        self.asked.append(Asked(request.method, request.path, dict(request.headers), body))
        script = self._scripts.get(request.path)
        if not script:
            return web.json_response({"error": "not found"}, status=404)
        handler = script.pop(0) if len(script) > 1 else script[0]
        return await handler(request)


def told(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> Handler:
    """A JSON reply."""

    async def reply(_request: web.Request) -> web.StreamResponse:
        return web.json_response(body, status=status, headers=headers)

    return reply


def text(body: str | bytes, status: int = 200, content_type: str = "text/html") -> Handler:
    async def reply(_request: web.Request) -> web.StreamResponse:
        content = body if isinstance(body, bytes) else body.encode()
        return web.Response(body=content, status=status, content_type=content_type)

    return reply
