"""What a process holds, as the kernel counts it."""

from pathlib import Path


def resident_kb(pid: int | str = "self", *, most: bool = False) -> int:
    """Memory now, or the most since the process began or its count was cleared."""
    key = "VmHWM:" if most else "VmRSS:"
    lines = Path(f"/proc/{pid}/status").read_text().split("\n")
    return next(int(line.split()[1]) for line in lines if line.startswith(key))


def descriptors(pid: int | str = "self") -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def threads(pid: int | str = "self") -> int:
    return len(list(Path(f"/proc/{pid}/task").iterdir()))
