"""The `lva` command as its user runs it: a process of its own."""

import asyncio
import json
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str

    @property
    def rows(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]


def _hear_ctrl_c() -> None:
    """A shell's background job, as a test run may be, is started deaf to it, and its children with it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


async def start_lva(*words: str, cwd: Path) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "daemon",
        *words,
        cwd=cwd,
        preexec_fn=_hear_ctrl_c,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def lva(*words: str, cwd: Path) -> Ran:
    process = await start_lva(*words, cwd=cwd)
    out, err = await process.communicate()
    return Ran(process.returncode or 0, out.decode(), err.decode())
