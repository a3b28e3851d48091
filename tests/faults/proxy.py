"""A way to a Postgres that misbehaves: closed, silent, slow, cut short, or cut just after the server has committed."""

import asyncio
import random
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Self
from urllib.parse import parse_qs, urlsplit

_CONFIRMATIONS = (b"INSERT 0 ", b"COMMIT\x00")
_OUTSIDE_A_TRANSACTION = b"Z\x00\x00\x00\x05I"
"""ReadyForQuery (PostgreSQL documentation, 54.7): what was confirmed before is committed."""
_SSL_REQUEST = b"\x00\x00\x00\x08\x04\xd2\x16\x2f"
_CHUNK = 65536


@dataclass(slots=True)
class Weather:
    """What is wrong with the way at the moment. The fields may be set at any time, and hold for what comes next."""

    silent: bool = False
    """Connections are taken, and nothing ever comes back."""
    delay_s: float = 0.0
    """Of every piece, in both directions."""
    trickle_s: float = 0.0
    """What comes back comes byte by byte, one in so many seconds."""
    cut_after: int | None = None
    """Bytes that come back on a connection before it is cut."""
    replies_to_cut: int = 0
    """So many times, the connection is cut when the server has just said that it committed."""
    share_of_replies_to_cut: float = 0.0
    """The same by lot."""

    def cuts(self, reply: bytes) -> bool:
        if not (reply.endswith(_OUTSIDE_A_TRANSACTION) and any(word in reply for word in _CONFIRMATIONS)):
            return False
        if self.replies_to_cut:
            self.replies_to_cut -= 1
            return True
        return random.random() < self.share_of_replies_to_cut


class Proxy:
    """On a loopback port; in the other direction it goes to the unix socket of a DSN.

    With `tls` it shows that certificate to who asks for one; otherwise it lets the server answer.
    """

    def __init__(self, dsn: str, tls: ssl.SSLContext | None = None) -> None:
        parts = urlsplit(dsn)
        query = parse_qs(parts.query)
        self._socket = f"{query['host'][0]}/.s.PGSQL.{query['port'][0]}"
        self._login, self._database = parts.username, parts.path
        self._server: asyncio.Server | None = None
        self._port = 0
        self._links: set[asyncio.Task[None]] = set()
        self.tls = tls
        self.weather = Weather()
        self.connections = 0
        """Taken so far."""
        self.cut = 0
        """Cut so far, just after a commit."""

    @property
    def dsn(self) -> str:
        return f"postgresql://{self._login}@127.0.0.1:{self._port}{self._database}"

    async def open(self) -> Self:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]
        return self

    async def close(self) -> None:
        """Refuse new connections and cut those that there are."""
        assert self._server
        self._server.close()
        await self.reset()
        await self._server.wait_closed()

    async def reset(self) -> None:
        """Cut every connection that there is."""
        links = list(self._links)
        for link in links:
            link.cancel()
        await asyncio.gather(*links, return_exceptions=True)

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.ensure_future(self._link(reader, writer))
        self._links.add(task)
        task.add_done_callback(self._links.discard)

    async def _link(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if self.tls:
                await self._shake_hands(self.tls, reader, writer)
            upstream, to_server = await asyncio.open_unix_connection(self._socket)
        except (OSError, EOFError):  # it turned away at the sight of the certificate, or nobody is at home
            writer.transport.abort()
            return
        pumps = [
            asyncio.ensure_future(self._forth(reader, to_server)),
            asyncio.ensure_future(self._back(upstream, writer)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            writer.transport.abort()
            to_server.close()

    async def _shake_hands(
        self, tls: ssl.SSLContext, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        assert await reader.readexactly(len(_SSL_REQUEST)) == _SSL_REQUEST, "asked for no TLS"
        writer.write(b"S")
        await writer.start_tls(tls)

    async def _forth(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while piece := await reader.read(_CHUNK):
                await asyncio.sleep(self.weather.delay_s)
                writer.write(piece)
                await writer.drain()

    async def _back(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        passed = 0
        with suppress(ConnectionError):
            while piece := await reader.read(1 if self.weather.trickle_s else _CHUNK):
                await asyncio.sleep(self.weather.trickle_s or self.weather.delay_s)
                if self.weather.cuts(piece):
                    self.cut += 1
                    return
                if self.weather.silent:
                    continue
                passed += len(piece)
                if self.weather.cut_after is not None and passed > self.weather.cut_after:
                    return
                writer.write(piece)
                await writer.drain()


@asynccontextmanager
async def a_proxy(dsn: str, tls: ssl.SSLContext | None = None) -> AsyncIterator[Proxy]:
    proxy = await Proxy(dsn, tls).open()
    try:
        yield proxy
    finally:
        await proxy.close()
