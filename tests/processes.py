"""Which processes run below one."""

from pathlib import Path

import psutil


def children(pid: int | None = None) -> list[int]:
    """The process ids of those that a process (this one) has started, whichever of its threads did."""
    return [child.pid for child in psutil.Process(pid).children()]


def descendants(pid: int) -> list[int]:
    return [child.pid for child in psutil.Process(pid).children(recursive=True)]


def camera_processes(pid: int | None = None) -> list[int]:
    """Those children that watch a camera."""
    return [child for child in children(pid) if b"pipeline.camera_process" in command_line(child)]


def command_line(pid: int) -> bytes:
    """As the kernel keeps it, with a zero byte behind each argument; empty where the process has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
