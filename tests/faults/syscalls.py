"""System calls that fail or take long, in a process of our own, by strace."""

import asyncio
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_STRACE = ("strace", "-f", "--seccomp-bpf", "-qq", "-o", "/dev/null")
SYNCS = "fdatasync,fsync"
"""SQLite of apsw's wheels syncs by fdatasync, files and folders; fsync is for other builds."""


def why_not() -> str:
    """Why strace can't be used here; "" where it can."""
    if not shutil.which("strace"):
        return "needs strace (deploy/system-packages.sh test installs it)"
    command = [*_STRACE, "-e", "trace=fsync", "-e", "inject=fsync:error=EIO", "true"]
    tried = subprocess.run(command, capture_output=True, text=True)
    return f"strace is not allowed here: {tried.stderr.strip()}" if tried.returncode else ""


needs_strace = pytest.mark.skipif(bool(why_not()), reason=why_not())


@dataclass(frozen=True, slots=True)
class Ended:
    status: int
    said: tuple[str, ...]
    """Whole lines."""
    complained: str


async def run_with(calls: str, tampering: str, module: str, *arguments: str) -> Ended:
    """Run a module of ours whose calls, `open,close`, are tampered with, as strace says it: `error=EIO:when=3`.

    strace counts `when=` for each thread by itself.
    """
    process = await asyncio.create_subprocess_exec(
        *(*_STRACE, "-e", f"trace={calls}", "-e", f"inject={calls}:{tampering}"),
        *(sys.executable, "-m", module, *arguments),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
    )
    said, complained = await process.communicate()
    assert process.returncode is not None
    return Ended(process.returncode, tuple(said.decode().split("\n")[:-1]), complained.decode())
