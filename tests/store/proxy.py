"""A way to a Postgres that can be closed, silenced, or cut just after the server said that it committed."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Self
from urllib.parse import parse_qs, urlsplit

_CONFIRMATIONS = (b"INSERT 0 ", b"COMMIT\x00")


class Proxy:
    """On a loopback port; in the other direction it goes to the unix socket of a DSN."""

    def __init__(self, dsn: str) -> None:
        parts = urlsplit(dsn)
        query = parse_qs(parts.query)
        self._socket = f"{query['host'][0]}/.s.PGSQL.{query['port'][0]}"
        self._database = parts.path
        self._server: asyncio.Server | None = None
        self._port = 0
        self._links: set[asyncio.Task[None]] = set()
        self._silent = asyncio.Event()
        self.replies_to_cut = 0
        self.cut = 0

    @property
    def dsn(self) -> str:
        return f"postgresql://lva@127.0.0.1:{self._port}{self._database}"

    async def open(self) -> Self:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]
        return self

    async def close(self) -> None:
        """Refuse new connections and cut those that there are."""
        assert self._server
        self._server.close()
        links = list(self._links)
        for link in links:
            link.cancel()
        await asyncio.gather(*links, return_exceptions=True)
        await self._server.wait_closed()

    def silence(self, silent: bool = True) -> None:
        """Connections are taken, and nothing ever comes back."""
        (self._silent.set if silent else self._silent.clear)()

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(self._link(reader, writer))
        self._links.add(task)
        task.add_done_callback(self._links.discard)

    async def _link(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream, to_server = await asyncio.open_unix_connection(self._socket)
        pumps = [
            asyncio.ensure_future(self._pump(reader, to_server, watched=False)),
            asyncio.ensure_future(self._pump(upstream, writer, watched=True)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            writer.transport.abort()
            to_server.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, watched: bool) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(65536):
                if watched and self.replies_to_cut and any(word in data for word in _CONFIRMATIONS):
                    self.replies_to_cut -= 1
                    self.cut += 1
                    return
                if not (watched and self._silent.is_set()):
                    writer.write(data)
                    await writer.drain()


@asynccontextmanager
async def a_proxy(dsn: str) -> AsyncIterator[Proxy]:
    proxy = await Proxy(dsn).open()
    try:
        yield proxy
    finally:
        await proxy.close()
