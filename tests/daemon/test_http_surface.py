"""The pages over HTTP, asked by sockets and by a real client."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from structlog.testing import capture_logs

from daemon.http_settings import HttpSettings
from daemon.http_surface import CONNECTIONS_MAX, http_surface
from daemon.snapshot import Snapshot
from pipeline.camera import CameraState
from pipeline.stages import Stages
from tests.daemon.snapshots import a_camera, a_provider, a_snapshot


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Reply:
    def __init__(self, raw: bytes) -> None:
        head, _, self.body = raw.partition(b"\r\n\r\n")
        status, *lines = head.decode().split("\r\n")
        self.status = int(status.split()[1])
        self.headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}

    @property
    def json(self) -> Any:
        return json.loads(self.body)


async def raw(port: int, request: bytes) -> bytes:
    """All that comes back until the other side closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request)
        return await reader.read()
    finally:
        writer.close()


async def ask(port: int, path: str, method: str = "GET", host: str | None = None) -> Reply:
    host = f"127.0.0.1:{port}" if host is None else host
    return Reply(await raw(port, f"{method} {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()))


def nothing() -> list[str]:
    return []


@asynccontextmanager
async def a_surface(
    snapshot: Callable[[], Snapshot] = a_snapshot,
    stale: Callable[[], list[str]] = nothing,
    missing: Callable[[], list[str]] = nothing,
    **limits: float,
) -> AsyncIterator[int]:
    """The port on which it listens."""
    settings = HttpSettings(port=free_port())
    async with http_surface(settings, snapshot, Stages(), stale=stale, missing=missing, **limits) as listening:
        await listening.wait()
        yield settings.port


async def test_healthz_is_good_until_a_part_makes_no_progress() -> None:
    stuck: list[str] = []
    async with a_surface(stale=lambda: stuck) as port:
        assert (await ask(port, "/healthz")).status == 200
        stuck.append("worker 1")
        reply = await ask(port, "/healthz")
        assert (reply.status, reply.json["stale"]) == (503, ["worker 1"])


async def test_readyz_waits_for_the_journal_and_for_one_camera() -> None:
    cameras = [a_camera("yard", CameraState.CONNECTING), a_camera("door", CameraState.CONNECTING)]
    missing = ["journal: it is being recovered"]
    async with a_surface(lambda: a_snapshot(cameras=tuple(cameras)), missing=lambda: missing) as port:
        assert len((await ask(port, "/readyz")).json["missing"]) == 2
        missing.clear()
        assert (await ask(port, "/readyz")).status == 503
        cameras[1] = a_camera("door", CameraState.DOWN)
        assert (await ask(port, "/readyz")).status == 200


async def test_a_box_without_cameras_is_ready() -> None:
    async with a_surface(lambda: a_snapshot(cameras=())) as port:
        assert (await ask(port, "/readyz")).status == 200


async def test_stats_say_everything_and_what_is_wrong() -> None:
    down = a_camera("door", CameraState.DOWN, reason="connection refused", down_s=60.0)
    async with a_surface(lambda: a_snapshot(cameras=(down,), providers=(a_provider(state="parked"),))) as port:
        stats = (await ask(port, "/api/stats")).json
    assert stats["troubles"] == ["camera door is down: connection refused", "provider moondream is parked"]
    assert stats["cameras"][0]["dropped"] == {"pace": 600}
    assert stats["providers"][0]["asked"] == 5
    assert set(stats) >= {"uptime_s", "queue", "journal", "database", "process", "events", "stages"}


async def test_the_version_is_told() -> None:
    async with a_surface() as port:
        assert (await ask(port, "/api/version")).json["version"].startswith("0.")


async def test_metrics_are_the_text_that_prometheus_reads() -> None:
    async with a_surface() as port:
        reply = await ask(port, "/metrics")
    assert reply.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert b'\nlva_camera_up{camera="yard"} 1.0\n' in reply.body


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
async def test_nothing_can_be_changed(method: str) -> None:
    async with a_surface() as port:
        reply = await ask(port, "/healthz", method)
    assert (reply.status, reply.headers["allow"]) == (405, "GET, HEAD")


async def test_head_is_get_without_a_body() -> None:
    async with a_surface() as port:
        reply = await ask(port, "/metrics", "HEAD")
    assert (reply.status, reply.body) == (200, b"")


async def test_another_path_names_those_that_there_are() -> None:
    async with a_surface() as port:
        reply = await ask(port, "/../etc/passwd")
    assert (reply.status, "/healthz" in reply.json["pages"]) == (404, True)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:8577", "LOCALHOST", "[::1]:8577", "192.168.1.9"])
async def test_asked_by_its_own_name_or_an_address_it_answers(host: str) -> None:
    async with a_surface() as port:
        assert (await ask(port, "/healthz", host=host)).status == 200


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example:8577", "127.0.0.1.evil.example", "", "[::1"])
async def test_asked_by_a_strangers_name_it_does_not(host: str) -> None:
    async with a_surface() as port:
        assert (await ask(port, "/api/stats", host=host)).status in (400, 421)


async def test_a_request_without_end_is_refused() -> None:
    async with a_surface() as port:
        reply = Reply(await raw(port, b"GET /" + b"x" * 10_000 + b" HTTP/1.1\r\n\r\n"))
        assert reply.status == 400
        reply = Reply(await raw(port, b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 10_000 + b"\r\n\r\n"))
        assert reply.status == 400


BROKEN = (
    b"\x16\x03\x01\x02\x00",
    b"GARBAGE\r\n\r\n",
    b"GET / HTTP/9.9\r\nHost: localhost\r\n\r\n",
    b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n",
    b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
)


@pytest.mark.parametrize("request_bytes", BROKEN)
async def test_who_speaks_no_http_is_refused_and_does_not_fill_the_log(
    request_bytes: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with a_surface() as port:
        assert Reply(await raw(port, request_bytes)).status == 400
    assert caplog.records == []


async def test_whoever_connects_and_says_nothing_is_gone_soon() -> None:
    async with a_surface(connection_s=0.05) as port:
        assert await raw(port, b"") == b""
        assert await raw(port, b"GET /healthz HTTP/1.1\r\n") == b""


async def test_more_connections_than_it_takes_are_closed_and_the_next_is_served_again() -> None:
    async with a_surface() as port:
        held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(CONNECTIONS_MAX)]
        with pytest.raises((ConnectionError, IndexError)):
            await ask(port, "/healthz")
        for _, writer in held:
            writer.close()
            await writer.wait_closed()
        assert (await ask(port, "/healthz")).status == 200


async def test_a_page_that_fails_is_an_error_of_its_own(caplog: pytest.LogCaptureFixture) -> None:
    def broken() -> Snapshot:
        raise RuntimeError("a bug")

    async with a_surface(broken) as port:
        assert (await ask(port, "/api/stats")).status == 500
        assert "a bug" in caplog.text
        assert (await ask(port, "/healthz")).status == 200


async def test_a_port_that_is_taken_is_told_once_and_tried_again() -> None:
    with socket.socket() as other, capture_logs() as logs:
        other.bind(("127.0.0.1", 0))
        other.listen()
        settings = HttpSettings(port=other.getsockname()[1])
        async with http_surface(
            settings, a_snapshot, Stages(), stale=nothing, missing=nothing, retry_s=0.01
        ) as listening:
            while not logs:  # noqa: ASYNC110 - what is awaited is a line of the log
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.1)
            assert not listening.is_set()
            other.close()
            await listening.wait()
            assert (await ask(settings.port, "/healthz")).status == 200
    assert [line["event"] for line in logs] == ["http.failed", "http.ready"]


async def test_a_host_that_does_not_exist_stops_nothing() -> None:
    with capture_logs() as logs:
        for host in ("no-such-host.invalid", "x" * 70):
            settings = HttpSettings(host=host, port=free_port())
            async with http_surface(settings, a_snapshot, Stages(), stale=nothing, missing=nothing):
                seen = len(logs)
                while len(logs) == seen:  # noqa: ASYNC110 - what is awaited is a line of the log
                    await asyncio.sleep(0.01)
    assert [line["event"] for line in logs] == ["http.failed"] * 2


async def test_listening_to_the_network_is_a_warning() -> None:
    settings = HttpSettings(host="0.0.0.0", port=free_port())
    with capture_logs() as logs:
        async with http_surface(settings, a_snapshot, Stages(), stale=nothing, missing=nothing) as listening:
            await listening.wait()
    assert [(line["event"], line["log_level"]) for line in logs] == [("http.open", "warning")]


async def test_switched_off_nobody_listens() -> None:
    settings = HttpSettings(enabled=False, port=free_port())
    async with http_surface(settings, a_snapshot, Stages(), stale=nothing, missing=nothing) as listening:
        assert not listening.is_set()
        with pytest.raises(ConnectionError):
            await ask(settings.port, "/healthz")
