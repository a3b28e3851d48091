"""A box and its lives: each ends by a kill, a stop, or of itself; what it said in all of them is the evidence."""

import asyncio
import json
import os
import signal
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from daemon.postgres_programs import until_ended
from tests.faults.box import BoxSettings
from tests.faults.nursery import Nursery
from tests.faults.oracle import Evidence, Verdict, check
from tests.faults.resources import resident_kb

FRESH = 20
_LOOK_S = 0.02


class Lives:
    """One life at a time. `settings` are those of every life that says nothing else; `database` is what the oracle
    asks, on a way that is always good."""

    def __init__(self, nursery: Nursery, folder: Path, settings: BoxSettings, database: str) -> None:
        self.settings = settings
        self.database = database
        self.count = 0
        self.pid = 0
        self._heard = _Heard(folder, 0)
        self._nursery = nursery
        self._folder = folder

    @property
    def evidence(self) -> list[Path]:
        return sorted(self._folder.glob("*.said"))

    def start(self, **changes: Any) -> None:
        self.count += 1
        self._heard = _Heard(self._folder, self.count)
        settings = replace(self.settings, **({"seed": f"{self.settings.seed}/{self.count}"} | changes))
        self.pid = self._nursery.start(settings, self._heard.said.file, self._heard.log.file)

    def abandon(self) -> None:
        """If it still lives, no longer."""
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            self._status()

    async def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        assert await self.end() == -signal.SIGKILL, self.last_words()

    async def stop(self) -> int:
        """Ask it to drain; the exit status."""
        os.kill(self.pid, signal.SIGTERM)
        return await self.end()

    async def end(self) -> int:
        """Wait for its end; the exit status."""
        await until_ended(self.pid)
        return self._status()

    def _status(self) -> int:
        status, self.pid = self._nursery.status(self.pid), 0
        return status

    async def life(self, **changes: Any) -> int:
        """A whole life; the exit status."""
        self.start(**changes)
        return await self.end()

    async def live(self, **changes: Any) -> None:
        """A whole life that must end well: everything has an outcome, and is in the database."""
        assert await self.life(**changes) == 0, self.last_words()

    async def settle(self, *, dead_letters: int = 0, beside: Sequence["Lives"] = ()) -> Verdict:
        """After the faults: one quiet life with fresh events, which drains; then the oracle, which also knows of the
        boxes `beside` this one. Raises OracleError."""
        status = await self.life(count=FRESH)
        fresh = Evidence.of([self._heard.said.file]).accepted
        evidence = [file for box in (self, *beside) for file in box.evidence]
        verdict = await check(self.database, evidence, seed=self.settings.seed, fresh=fresh, dead_letters=dead_letters)
        assert status == 0, self.last_words()
        assert len(fresh) == FRESH, self.last_words()
        return verdict

    def accepted(self) -> int:
        """In this life."""
        return self.said("accepted")

    def said(self, word: str) -> int:
        """How many lines of this life begin with this word."""
        self._heard.listen()
        return self._heard.words[word]

    def logged(self, event: str) -> list[dict[str, Any]]:
        """The lines of this life's log that tell of this."""
        self._heard.listen()
        return self._heard.lines[event]

    async def until_logged(self, event: str, times: int = 1) -> list[dict[str, Any]]:
        await self.until(lambda: len(self.logged(event)) >= times)
        return self.logged(event)

    async def until_accepted(self, more: int) -> None:
        """Until it has taken in so many from now on."""
        target = self.accepted() + more
        await self.until(lambda: self.accepted() >= target)

    async def until_said(self, word: str) -> None:
        """Once more from now on."""
        before = self.said(word)
        await self.until(lambda: self.said(word) > before)

    async def until(self, condition: Callable[[], bool]) -> None:
        """It can't tell us: so look again and again, and notice when it is dead."""
        while not condition():
            assert Path(f"/proc/{self.pid}/stat").read_text().split()[2] != "Z", self.last_words()
            await asyncio.sleep(_LOOK_S)

    def forget(self) -> None:
        """All evidence so far, that of the life that goes on included."""
        for file in self._folder.glob("*.*"):
            if int(file.stem) == self.count:
                os.truncate(file, 0)
            else:
                file.unlink()

    def resident_kb(self) -> int:
        """Its memory now. What it says at its end as `peak_kb` counts from here on."""
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")
        return resident_kb(self.pid)

    def ended(self) -> dict[str, Any]:
        """What it said at its end."""
        *_, last = (line for line in self._heard.said.file.read_text().split("\n") if line.startswith("ended "))
        told: dict[str, Any] = json.loads(last.removeprefix("ended "))
        return told

    def last_words(self) -> str:
        return f"life {self.count}, seed {self.settings.seed}: " + self._heard.log.file.read_text()[-3000:]


class _Tail:
    """The lines of a file as they come, each once and whole."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._read_bytes = 0

    def __iter__(self) -> Iterator[str]:
        if not self.file.exists():
            return
        with self.file.open("rb") as opened:
            self._read_bytes = opened.seek(min(self._read_bytes, os.fstat(opened.fileno()).st_size))
            whole, newline, _ = opened.read().rpartition(b"\n")
        self._read_bytes += len(whole) + len(newline)
        yield from whole.decode().split("\n")


class _Heard:
    """What one life has told so far."""

    def __init__(self, folder: Path, life: int) -> None:
        self.said = _Tail(folder / f"{life:04}.said")
        self.log = _Tail(folder / f"{life:04}.log")
        self.words: Counter[str] = Counter()
        self.lines: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)

    def listen(self) -> None:
        self.words.update(line.partition(" ")[0] for line in self.said)
        for line in self.log:
            if line.startswith("{"):
                told = json.loads(line)
                self.lines[told["event"]].append(told)


@asynccontextmanager
async def a_life(lives: Lives, **changes: Any) -> AsyncIterator[Lives]:
    """One that is running while the body does, and drains after it."""
    lives.start(**changes)
    yield lives
    await lives.stop()
