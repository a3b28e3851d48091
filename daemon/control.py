"""A way to the journal for `lva db` while the daemon has it: one line of JSON in, one line out, over a unix socket.

Only one process may have the journal open. So the daemon listens in its state folder, to its own user and to root.
"""

import asyncio
import json
import os
import socket
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import structlog

from pipeline.journal import Journal
from pipeline.journal_errors import JournalError

TIMEOUT_S = 10.0
REQUEST_BYTES_MAX = 1024 * 1024
LETTERS_MAX = 10_000
"""Told at once; there may be more."""
_SOCKET = "control.sock"
_CREDENTIALS = struct.Struct("3i")  # of struct ucred: process, user, group

Message = dict[str, Any]

log = structlog.get_logger()


class NobodyListensError(Exception):
    """No daemon runs on this state folder."""


class ControlError(Exception):
    """The daemon answered that it can't."""


async def answer(journal: Journal, request: Message) -> Message:
    """Carry out one request. Raises JournalError, and ValueError for what is none."""
    match request:
        case {"command": "counts"}:
            return {"counts": await journal.counts()}
        case {"command": "dead-letters"}:
            letters = await journal.dead_letters(LETTERS_MAX)
            return {"dead_letters": [asdict(letter) for letter in letters]}
        case {"command": "retry-dead-letters", "seqs": None | [*_] as seqs}:
            return {"retried": await journal.retry_dead_letters(None if seqs is None else [int(seq) for seq in seqs])}
    raise ValueError(f"no such command: {request}")


async def ask(state_dir: Path, request: Message) -> Message:
    """What the running daemon says. Raises NobodyListensError, ControlError."""
    with _way_to(state_dir) as path:
        try:
            async with asyncio.timeout(TIMEOUT_S):
                reply = await _exchange(path, json.dumps(request).encode() + b"\n")
        except (FileNotFoundError, ConnectionRefusedError):
            raise NobodyListensError(str(state_dir)) from None
        except (OSError, TimeoutError) as error:
            raise ControlError(f"the daemon does not answer: {str(error) or 'it takes too long'}") from error
    said: Message = json.loads(reply or b'{"error": "the daemon turned us away"}')
    if "error" in said:
        raise ControlError(said["error"])
    return said


async def _exchange(path: str, line: bytes) -> bytes:
    reader, writer = await asyncio.open_unix_connection(path)
    try:
        writer.write(line)
        return await reader.read()
    finally:
        writer.close()


@asynccontextmanager
async def control_server(state_dir: Path, journal: Journal) -> AsyncIterator[None]:
    """Listen while the body runs. Where that can't be, the daemon does without."""
    try:
        listening = _listen(state_dir)
    except OSError as error:
        log.warning("control.unavailable", reason=error.strerror, hint="`lva db dead-letters` can't ask this daemon")
        yield
        return
    connections = _Connections(journal)
    server = await asyncio.start_unix_server(connections.accept, sock=listening, limit=REQUEST_BYTES_MAX)
    try:
        yield
    finally:
        server.close()
        connections.cancel()
        with _way_to(state_dir) as path, suppress(FileNotFoundError):
            os.unlink(path)


class _Connections:
    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._tasks: set[asyncio.Task[None]] = set()

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer), name="control")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def cancel(self) -> None:
        for task in self._tasks:
            task.cancel()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(TIMEOUT_S):
                if _user_of(writer) in (0, os.geteuid()):
                    writer.write(json.dumps(await self._reply(await reader.readline())).encode() + b"\n")
                    await writer.drain()
        except (OSError, TimeoutError, ValueError) as error:  # ValueError: a line without end
            log.warning("control.failed", reason=str(error) or type(error).__name__)
        finally:
            writer.close()

    async def _reply(self, line: bytes) -> Message:
        try:
            return await answer(self._journal, json.loads(line))
        except (JournalError, ValueError, TypeError) as error:
            return {"error": str(error)}


def _user_of(writer: asyncio.StreamWriter) -> int:
    """Whoever is at the other end, as the kernel says (unix(7), SO_PEERCRED)."""
    peer = writer.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return int(_CREDENTIALS.unpack(peer)[1])


def _listen(state_dir: Path) -> socket.socket:
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        with _way_to(state_dir) as path:
            with suppress(FileNotFoundError):
                os.unlink(path)  # of a daemon that was killed: the state folder is ours alone
            os.fchmod(listening.fileno(), 0o600)  # before there is a name by which anyone could come
            listening.bind(path)
    except OSError:
        listening.close()
        raise
    return listening


@contextmanager
def _way_to(state_dir: Path) -> Iterator[str]:
    """A short path, as a socket's may have only 107 bytes: over the open folder."""
    folder = os.open(state_dir, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{_SOCKET}"
    finally:
        os.close(folder)
