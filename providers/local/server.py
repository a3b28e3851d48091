"""The HTTP server: Moondream's dialect and OpenAI's, over one engine.

Handlers that are cancelled because their caller hung up, or ran out of time, free their place in the batch.
"""

import asyncio
import hmac
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import structlog
from aiohttp import web
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from providers.local import chat, skills_api
from providers.local.engine import Engine
from providers.local.errors import (
    BadRequestError,
    ModelError,
    OverloadedError,
    TooLargeError,
    UnsupportedError,
)
from providers.local.settings import ServerSettings

log = structlog.get_logger()

RETRY_AFTER_S = 1
LOADING_RETRY_AFTER_S = 5
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Answering = Callable[[Engine, Mapping[str, Any]], Awaitable[dict[str, Any]]]


class Service:
    """The engine, once there is one, and what is counted of requests."""

    def __init__(self, settings: ServerSettings, model: str, token: str = "") -> None:
        self.engine: Engine | None = None
        self.model = model
        self._settings = settings
        self._token = token
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "lva_model_requests", "Requests by path and status", ("path", "status"), registry=self._registry
        )
        self._seconds = Histogram(
            "lva_model_request_seconds",
            "From the request to its answer",
            ("path",),
            registry=self._registry,
            buckets=(0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60),
        )
        self._engine_gauges: dict[str, Gauge] = {}

    def app(self) -> web.Application:
        app = web.Application(
            middlewares=[self._measured, self._told], client_max_size=self._settings.max_body_mb * 2**20
        )
        app.add_routes(
            [
                web.get("/health", self._health),
                web.get("/metrics", self._metrics),
                web.get("/v1/stats", self._stats),
                web.get("/v1/models", self._models),
                web.post("/v1/chat/completions", self._answered(self._chat)),
            ]
        )
        for name, answering in skills_api.SKILLS.items():
            app.router.add_post(f"/v1/{name}", self._answered(answering))
        return app

    # ------------------------------------------------------------------------------------------------------ questions

    def _answered(self, answering: Answering) -> Handler:
        async def handle(request: web.Request) -> web.Response:
            engine = self._ready()
            body = await _body(request)
            began = time.monotonic()
            async with asyncio.timeout(_timeout_s(body, self._settings.timeout_s)):
                answer = await answering(engine, body)
            answer.setdefault("model", engine.version)
            if isinstance(metrics := answer.get("metrics"), dict):
                metrics["total_time_ms"] = round((time.monotonic() - began) * 1000, 1)
            return web.json_response(answer, headers={"X-Request-Id": uuid4().hex})

        return handle

    async def _chat(self, engine: Engine, body: Mapping[str, Any]) -> dict[str, Any]:
        return await chat.complete(engine, body, self.model)

    def _ready(self) -> Engine:
        if self.engine is None:
            raise web.HTTPServiceUnavailable(
                text="the model is being loaded", headers={"Retry-After": str(LOADING_RETRY_AFTER_S)}
            )
        return self.engine

    # ----------------------------------------------------------------------------------------------------- about itself

    async def _health(self, _request: web.Request) -> web.Response:
        engine = self._ready()
        return web.json_response({"status": "ok", "server": "lva-model", "model": engine.version})

    async def _stats(self, _request: web.Request) -> web.Response:
        engine = self.engine
        status = "running" if engine else "loading"
        numbers = dict(engine.stats()) if engine else {}
        return web.json_response({"status": status, "model": engine.version if engine else self.model, **numbers})

    async def _models(self, _request: web.Request) -> web.Response:
        return web.json_response(
            {"object": "list", "data": [{"id": self.model, "object": "model", "created": 0, "owned_by": "lva-model"}]}
        )

    async def _metrics(self, _request: web.Request) -> web.Response:
        for name, value in self.engine.stats().items() if self.engine else ():
            if name not in self._engine_gauges:
                self._engine_gauges[name] = Gauge(
                    f"lva_model_{name}", f"Of the engine: {name.replace('_', ' ')}", registry=self._registry
                )
            self._engine_gauges[name].set(value)
        return web.Response(body=generate_latest(self._registry), content_type="text/plain", charset="utf-8")

    # ---------------------------------------------------------------------------------------------------- every request

    @web.middleware
    async def _measured(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        began = time.monotonic()
        path = request.match_info.route.resource.canonical if request.match_info.route.resource else "other"
        status = 499  # it was cancelled: the caller hung up
        try:
            response = await handler(request)
            status = response.status
            return response
        finally:
            self._requests.labels(path, str(status)).inc()
            self._seconds.labels(path).observe(time.monotonic() - began)

    @web.middleware
    async def _told(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Every failure in the form that both dialects' clients read."""
        try:
            self._authorize(request)
            return await handler(request)
        except web.HTTPException as error:
            return _failure(error.status, error.text or error.reason, headers=error.headers)
        except TooLargeError as error:
            return _failure(413, str(error))
        except UnsupportedError as error:
            return _failure(404, str(error))
        except BadRequestError as error:
            return _failure(400, str(error))
        except OverloadedError as error:
            return _failure(503, str(error), headers={"Retry-After": str(RETRY_AFTER_S)})
        except TimeoutError:
            return _failure(504, "no answer in time; it was given up")
        except ModelError as error:
            return _failure(500, str(error))
        except Exception:  # whatever it is, the caller hears of it and the others go on
            log.exception("request.crashed", path=request.path)
            return _failure(500, "a bug; the server's log has it")

    def _authorize(self, request: web.Request) -> None:
        if not self._token or request.path == "/health":
            return
        sent = request.headers.get("Authorization", "").removeprefix("Bearer ").strip()
        sent = sent or request.headers.get("X-Moondream-Auth", "")
        if not hmac.compare_digest(sent.encode(), self._token.encode()):
            raise web.HTTPUnauthorized(text="the token is missing or wrong", headers={"WWW-Authenticate": "Bearer"})


def _failure(status: int, message: str, headers: Mapping[str, str] | None = None) -> web.Response:
    kind = "invalid_request_error" if 400 <= status < 500 else "server_error"
    kept = {
        name: value for name, value in (headers or {}).items() if name.lower() not in ("content-type", "content-length")
    }
    body = {"error": {"message": message, "type": kind, "param": None, "code": status}}
    return web.json_response(body, status=status, headers=kept)


async def _body(request: web.Request) -> dict[str, Any]:
    try:
        body = json.loads(await request.read())
    except (ValueError, RecursionError) as error:
        raise BadRequestError(f"the body is no JSON: {error}") from error
    if not isinstance(body, dict):
        raise BadRequestError("the body must be a JSON object")
    return body


def _timeout_s(body: Mapping[str, Any], most_s: float) -> float:
    """What the caller says, as Station's callers may, up to the server's own."""
    told = body.get("timeout")
    if told is None:
        return most_s
    if isinstance(told, bool) or not isinstance(told, int | float) or not told > 0:
        raise BadRequestError("timeout: must be a number of seconds above 0")
    return min(float(told), most_s)


@asynccontextmanager
async def listening(service: Service, settings: ServerSettings) -> AsyncIterator[str]:
    """The server's address. Raises OSError where it can't be had."""
    runner = web.AppRunner(service.app(), access_log=None, handler_cancellation=True, shutdown_timeout=5.0)
    await runner.setup()
    try:
        if settings.unix_socket:
            await web.UnixSite(runner, str(settings.unix_socket)).start()
            settings.unix_socket.chmod(0o660)
            yield f"unix:{settings.unix_socket}"
        else:
            await web.TCPSite(runner, settings.host, settings.port).start()
            host = f"[{settings.host}]" if ":" in settings.host else settings.host
            yield f"http://{host}:{settings.port}"
    finally:
        await runner.cleanup()
