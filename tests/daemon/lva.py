"""The `lva` command as a process."""

import subprocess
import sys


def lva(*arguments: str, timeout_s: float = 60, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "daemon", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False, env=env)
