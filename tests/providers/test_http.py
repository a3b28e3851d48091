"""The one HTTP path against servers that misbehave on purpose."""

import asyncio
import gzip
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from providers.base import Advice, Failure, ProviderError
from providers.http import MAX_REPLY_BYTES, JsonHttp, open_session, retry_after_s, told_error
from tests.providers.wire import Handler, Wire, text, told

Raw = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def http(url: str, timeout_s: float = 5) -> AsyncIterator[JsonHttp]:
    async with open_session() as session:
        yield JsonHttp(session, url, timeout_s=timeout_s, connect_timeout_s=1, secret="s3cret/key")


async def failure_of(url: str, timeout_s: float = 5) -> ProviderError:
    async with http(url, timeout_s) as server:
        with pytest.raises(ProviderError) as raised:
            await server.exchange("POST", "/ask", {"picture": "…"})
        return raised.value


@asynccontextmanager
async def raw_server(reply: Raw) -> AsyncIterator[str]:
    """A server that writes bytes, for what no HTTP library would send."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            await reply(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def test_an_object_comes_back_as_it_is(wire: Wire) -> None:
    wire.on("/ask", told({"answer": "yes"}))
    async with http(wire.url) as server:
        assert await server.exchange("POST", "/ask", {}) == {"answer": "yes"}


@pytest.mark.parametrize(
    "reply",
    [
        text("<html><body>It works!</body></html>"),
        text("upstream timed out", content_type="text/plain"),
        text("[1, 2]", content_type="application/json"),
        text("null", content_type="application/json"),
        text("", content_type="application/json"),
        text(b'{"answer": "\xff\xfe"}', content_type="application/json"),
        text('{"answer": NaN}', content_type="application/json"),
        text('{"answer": "yes", "answer": "no"}', content_type="application/json"),
        text('{"a":' * 10_000 + "1" + "}" * 10_000, content_type="application/json"),
    ],
)
async def test_what_is_no_object_under_200_is_a_server_error(wire: Wire, reply: Handler) -> None:
    wire.on("/ask", reply)
    assert (await failure_of(wire.url)).failure is Failure.SERVER_ERROR


async def test_an_endless_body_is_left_at_a_mebibyte() -> None:
    written = 0

    async def reply(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        writer.write(b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n{"a":"')
        while True:
            writer.write(b"x" * 65536)
            await writer.drain()
            written += 65536

    async with raw_server(reply) as url:
        error = await failure_of(url)
    assert (error.failure, error.advice) == (Failure.SERVER_ERROR, Advice.FAULT)
    assert written < 64 * MAX_REPLY_BYTES


async def test_a_body_that_trickles_ends_with_the_total_deadline() -> None:
    async def reply(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{"answer"')
        await writer.drain()
        await reader.read()

    async with raw_server(reply) as url:
        assert (await failure_of(url, timeout_s=0.2)).failure is Failure.TIMEOUT


async def test_a_body_shorter_than_promised_is_of_a_server_that_went_away() -> None:
    async def reply(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{"answer": "yes"}')
        await writer.drain()

    async with raw_server(reply) as url:
        error = await failure_of(url)
    assert (error.failure, error.advice) == (Failure.SERVER_ERROR, Advice.ALONE)


async def test_a_server_that_hangs_up_without_a_word_may_have_looked() -> None:
    async def reply(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None: ...

    async with raw_server(reply) as url:
        error = await failure_of(url)
    assert (error.failure, error.advice) == (Failure.SERVER_ERROR, Advice.ALONE)


async def test_what_is_no_http_is_a_broken_connection() -> None:
    async def reply(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-OpenSSH_9.2\r\n")
        await writer.drain()

    async with raw_server(reply) as url:
        assert (await failure_of(url)).failure is Failure.CONNECTION_ERROR


async def test_nobody_listening_is_a_broken_connection() -> None:
    async def reply(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None: ...

    async with raw_server(reply) as url:
        pass
    error = await failure_of(url)
    assert (error.failure, error.advice) == (Failure.CONNECTION_ERROR, Advice.RETRY)


async def test_a_compressed_body_is_not_unpacked() -> None:
    bomb = gzip.compress(b" " * (1 << 24))

    async def reply(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n")
        writer.write(b"Content-Length: %d\r\n\r\n" % len(bomb) + bomb)
        await writer.drain()

    async with raw_server(reply) as url:
        assert "gzip" in (await failure_of(url)).message


async def test_a_redirect_is_not_followed(wire: Wire) -> None:
    async def away(_request: web.Request) -> web.StreamResponse:
        raise web.HTTPTemporaryRedirect("/elsewhere")

    wire.on("/ask", away)
    assert (await failure_of(wire.url)).failure is Failure.NOT_FOUND
    assert [one.path for one in wire.asked] == ["/ask"]


async def test_proxies_from_the_environment_are_ignored(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    wire.on("/ask", told({"answer": "yes"}))
    async with http(wire.url) as server:
        assert await server.exchange("POST", "/ask", {}) == {"answer": "yes"}


async def test_the_secret_is_taken_out_in_both_forms(wire: Wire) -> None:
    wire.on("/ask", told({"error": "s3cret/key or s3cret%2Fkey\nis wrong"}, 401))
    assert (await failure_of(wire.url)).message == "401: *** or *** is wrong"


@pytest.mark.parametrize(
    ("body", "told_is"),
    [
        ({"error": "text"}, "text"),
        ({"error": {"message": "words", "code": 1}}, "words"),
        ({"detail": [{"loc": ["body"]}]}, "[{'loc': ['body']}]"),
        ({"error": "Queue is full", "status": "rejected"}, "Queue is full (rejected)"),
        ({"error": None, "answer": "yes"}, None),
        ({"answer": "error"}, None),
    ],
)
def test_each_shape_of_error_is_found(body: dict[str, object], told_is: str | None) -> None:
    assert told_error(body) == told_is


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("5", 5),
        ("", None),
        ("soon", None),
        ("-3", 0),
        ("1e9", 3600),
        ("nan", None),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0),
    ],
)
def test_retry_after_is_seconds_or_a_date(header: str, seconds: float | None) -> None:
    assert retry_after_s(header) == seconds
