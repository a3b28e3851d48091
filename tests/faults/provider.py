"""A model server that speaks every dialect and does what a script tells it, also what no HTTP library would do."""

import asyncio
import base64
import json
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Self

from tests.faults.minting import subject

DRIP_S = 0.05
"""Between two bytes of a reply that trickles: slow, against deadlines of a second."""

CHUNK = b"x" * 65536


class Manner(StrEnum):
    """How a reply goes out."""

    WHOLE = "as it should"
    CUT = "closes in the middle of the body"
    TRICKLE = "a byte now and then"
    NO_BODY = "headers, then silence"
    ENDLESS_BODY = "a body without end"
    ENDLESS_HEADERS = "headers without end"
    SILENT = "says nothing"
    RESET = "hangs up without a word"


@dataclass(frozen=True, slots=True)
class Asked:
    """One request, as it came over the wire."""

    method: str
    path: str
    headers: dict[str, str]
    content: bytes = field(repr=False)
    at_s: float

    @property
    def body(self) -> Any:
        return json.loads(self.content) if self.content else None

    @property
    def jpeg(self) -> bytes:
        """The picture, in whatever place the dialect puts it."""
        body = self.body
        if "image_url" in body:
            encoded = body["image_url"]
        elif "images" in (message := body["messages"][0]):
            encoded = message["images"][0]
        else:
            encoded = message["content"][0]["image_url"]["url"]
        return base64.b64decode(encoded.rpartition(",")[2])

    @property
    def schema(self) -> dict[str, Any]:
        """What each answer may be, where the dialect sends a schema."""
        body = self.body
        schema = body.get("format") or body["response_format"]["json_schema"]["schema"]
        properties: dict[str, Any] = schema["properties"]
        return properties

    @property
    def is_about_a_picture(self) -> bool:
        return self.method == "POST" and not self.path.endswith("/show")


@dataclass(frozen=True, slots=True)
class Reply:
    content: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    manner: Manner = Manner.WHOLE
    after: asyncio.Event | None = None
    """It waits for this."""


Script = Callable[[Asked], Reply]


def told(body: Any, status: int = 200, **headers: str) -> Reply:
    """JSON; header names with _ for -."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(json.dumps(body).encode(), status, named)


def said(asked: Asked, words: str) -> Reply:
    """What the model said, as the dialect of the request wraps it."""
    match asked.path.rpartition("/")[2]:
        case "completions":
            choice = {"message": {"role": "assistant", "content": words}, "finish_reason": "stop"}
            return told({"model": "fake", "choices": [choice], "usage": {"prompt_tokens": 9, "completion_tokens": 3}})
        case "chat":
            message = {"role": "assistant", "content": words}
            return told({"model": "fake", "message": message, "done_reason": "stop", "eval_count": 3})
        case "caption":
            return told({"caption": words, "finish_reason": "stop"})
        case _:
            return told({"answer": words, "finish_reason": "stop"})


def about_itself(asked: Asked) -> Reply | None:
    """What Ollama tells of its models, so that a script need only answer about pictures."""
    match asked.path:
        case "/api/show":
            return told({"capabilities": ["completion", "vision"]})
        case "/api/tags":
            return told({"models": [{"name": "fake", "digest": "sha256:0123456789abcdef"}]})
        case "/api/version":
            return told({"version": "0.17.1"})
        case _:
            return None


class FakeProvider:
    """Listens from entering to leaving. `script` answers what is asked about pictures, and may be replaced; while
    `stop`ped, the port refuses.
    """

    def __init__(self, script: Script) -> None:
        self.script = script
        self.knows_itself = True
        """Answers what Ollama is asked about its models; if not, that is for the script, too."""
        self.asked: list[Asked] = []
        self._server: asyncio.Server | None = None
        self._links: set[asyncio.Task[None]] = set()
        self._port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @property
    def pictures(self) -> list[Asked]:
        return [asked for asked in self.asked if asked.is_about_a_picture]

    async def start(self) -> Self:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]
        return self

    async def stop(self) -> None:
        """Refuse who comes, and cut off who is there."""
        assert self._server is not None
        self._server.close()
        links = list(self._links)
        for link in links:
            link.cancel()
        await asyncio.gather(*links, return_exceptions=True)
        await self._server.wait_closed()
        self._server = None

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(self, *_: object) -> None:
        if self._server is not None:
            await self.stop()

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = asyncio.ensure_future(self._serve(reader, writer))
        self._links.add(link)
        link.add_done_callback(self._links.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                while True:
                    asked = await _read(reader)
                    self.asked.append(asked)
                    reply = (self.knows_itself and about_itself(asked)) or self.script(asked)
                    if reply.after is not None:
                        await reply.after.wait()
                    if not await _send(reply, reader, writer):
                        return
        finally:
            writer.transport.abort()


async def _read(reader: asyncio.StreamReader) -> Asked:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head.strip().split("\r\n")
    method, path, _ = first.split(" ")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    content = await reader.readexactly(int(headers.get("content-length", 0)))
    return Asked(method, path, headers, content, time.monotonic())


async def _send(reply: Reply, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    """Whether the connection can be used again."""
    match reply.manner:
        case Manner.SILENT:
            await reader.read()
        case Manner.RESET:
            pass
        case Manner.ENDLESS_HEADERS:
            writer.write(b"HTTP/1.1 200 OK\r\n")
            await _flood(writer, b"X-Padding: " + CHUNK[:4000] + b"\r\n")
        case _:
            return await _send_body(reply, reader, writer)
    return False


async def _send_body(reply: Reply, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    length = {} if reply.manner is Manner.ENDLESS_BODY else {"Content-Length": str(len(reply.content))}
    headers = {"Content-Type": "application/json"} | length | reply.headers
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    writer.write(f"HTTP/1.1 {reply.status} As told\r\n{lines}\r\n".encode())
    match reply.manner:
        case Manner.NO_BODY:
            await reader.read()
        case Manner.CUT:
            writer.write(reply.content[: len(reply.content) // 2])
            await writer.drain()
        case Manner.TRICKLE:
            for byte in reply.content:
                writer.write(bytes([byte]))
                await writer.drain()
                await asyncio.sleep(DRIP_S)
        case Manner.ENDLESS_BODY:
            await _flood(writer, CHUNK)
        case _:
            writer.write(reply.content)
            await writer.drain()
            return True
    return False


async def _flood(writer: asyncio.StreamWriter, piece: bytes) -> None:
    while True:
        writer.write(piece)
        await writer.drain()


def answers_of(schema: dict[str, Any], words: str = "A quiet yard.") -> str:
    """A good answer to any schema: one, yes, the first that is allowed, and these words for a description."""
    return json.dumps({name: _value(field, words) for name, field in schema.items()})


def _value(field: dict[str, Any], words: str) -> Any:
    match field["type"]:
        case ["integer", _]:
            return 1
        case ["boolean", _]:
            return True
        case ["string", _]:
            return field.get("enum", [words])[0]
        case _:
            return []


def good(asked: Asked) -> Reply:
    """Answers everything, in every dialect."""
    match asked.path.rpartition("/")[2]:
        case "chat" | "completions":
            return said(asked, answers_of(asked.schema))
        case "detect":
            return told({"objects": [{"x_min": 0.1, "y_min": 0.2, "x_max": 0.3, "y_max": 0.4}]})
        case "point":
            return told({"points": [{"x": 0.5, "y": 0.5}]})
        case _:
            return said(asked, "yes")


def names_the_event(asked: Asked) -> Reply:
    """As the oracle wants to hear it, of pictures that name their event."""
    return said(asked, answers_of(asked.schema, f"about {subject(asked.jpeg)}"))
