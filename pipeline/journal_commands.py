"""The journal's commands on their way from the event loop to the thread that carries them out, and back."""

import asyncio
import queue
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from pipeline.journal_errors import JournalError
from pipeline.journal_file import JournalFile

GROUP_MAX = 256
"""Commands in one transaction at most, so that no one waits for a transaction without end."""


@dataclass(slots=True, eq=False)
class Command:
    """`patient`: where there is no room for it, it waits. `done` is None where nobody waits for the result."""

    run: Callable[[JournalFile], Any]
    done: asyncio.Future[Any] | None
    patient: bool = True
    waits_for_room: bool = False
    result: Any = None
    error: Exception | None = None


class JournalCommands:
    """`give`, `close` and `oldest_s` are for the event loop, all else is for the thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._commands: queue.SimpleQueue[Command | None] = queue.SimpleQueue()
        self._owed: dict[asyncio.Future[Any], float] = {}
        self._ended: JournalError | None = None

    def give(self, run: Callable[[JournalFile], Any], patient: bool) -> asyncio.Future[Any]:
        """Answered after the commit. Fails with JournalError at once when the thread has ended."""
        done: asyncio.Future[Any] = self._loop.create_future()
        self._owed[done] = time.monotonic()
        done.add_done_callback(self._not_owed)
        self._commands.put(Command(run, done, patient))
        if self._ended:  # what was put before the thread ended, it fails itself; this may have come after
            _fail([done], self._ended)
        return done

    def close(self) -> None:
        """The thread ends after what was asked before."""
        self._commands.put(None)

    def oldest_s(self) -> float:
        """For how long the thread has owed an answer; 0 when it owes none, or only to what waits for room."""
        return time.monotonic() - next(iter(self._owed.values())) if self._owed else 0.0

    def next_group(self, patience_s: float | None) -> list[Command] | None:
        """Wait for one command, take all that came meanwhile. Empty: there was none for so long. None: the end."""
        group: list[Command] = []
        try:
            command = self._commands.get(timeout=patience_s)
        except queue.Empty:
            return []
        while command is not None:
            group.append(command)
            if len(group) == GROUP_MAX or self._commands.empty():
                return group
            command = self._commands.get()
        if group:
            self._commands.put(None)  # first what was asked before the end, then the end
        return group or None

    def answer(self, group: Iterable[Command]) -> None:
        """All but those that wait for room, which from now on nobody owes an answer."""
        self._loop.call_soon_threadsafe(_settle, [command for command in group if not command.waits_for_room])
        for command in group:
            if command.waits_for_room and command.done:
                self._loop.call_soon_threadsafe(self._not_owed, command.done)

    def end(self, unanswered: Iterable[Command], error: JournalError) -> None:
        """From now on every command fails, those that are under way included."""
        self._ended = error
        left = list(unanswered)
        while not self._commands.empty():
            if command := self._commands.get():
                left.append(command)
        self.fail([command.done for command in left if command.done], error)

    def fail(self, waiting: Iterable[asyncio.Future[Any]], error: JournalError) -> None:
        self._loop.call_soon_threadsafe(_fail, waiting, error)

    def say(self, event: asyncio.Event) -> None:
        self._loop.call_soon_threadsafe(event.set)

    def _not_owed(self, done: asyncio.Future[Any]) -> None:
        self._owed.pop(done, None)


def _settle(group: Iterable[Command]) -> None:
    for command in group:
        if command.done is None or command.done.done():
            continue  # whoever asked was cancelled; the command was carried out all the same
        if command.error:
            command.done.set_exception(command.error)
        else:
            command.done.set_result(command.result)


def _fail(waiting: Iterable[asyncio.Future[Any]], error: JournalError) -> None:
    for done in waiting:
        if not done.done():
            done.set_exception(error)
