"""What a box is made of: a bare Debian and the packages that it installs from, both made once and kept in `build/`."""

import hashlib
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
CACHE = ROOT / "build" / "systemd-test"
LOCK = ROOT / "requirements" / "base.txt"

SUITE = "bookworm"
PYTHON_VERSION = "3.11"
"""Of that suite."""
PACKAGES = ("systemd", "systemd-sysv", "dbus", "make", "python3", "python3-venv", "libgl1", "libglib2.0-0")
"""The last three as deploy/system-packages.sh would install them; the box has no network to do so."""


def bare_tree() -> Path:
    """A Debian with systemd, of which every box is a copy. A minute or two for the first time."""
    include = ",".join(PACKAGES)
    tree = CACHE / f"{SUITE}-{_digest(include.encode())}"
    if not tree.exists():
        unfinished = CACHE / f"{tree.name}.new"
        _run("rm", "-rf", str(unfinished))
        _run("debootstrap", "--variant=minbase", f"--include={include}", SUITE, str(unfinished))
        unfinished.rename(tree)
    return tree


def wheels() -> Path:
    """A folder with every package of the lock, for the Python of the box."""
    folder = CACHE / f"wheels-{_digest(LOCK.read_bytes())}"
    if not folder.exists():
        unfinished = CACHE / f"{folder.name}.new"
        _run("rm", "-rf", str(unfinished))
        pip = (sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check")
        target = ("--python-version", PYTHON_VERSION, "--only-binary=:all:", "--dest", str(unfinished))
        _run(*pip, *target, "--require-hashes", "-r", str(LOCK))
        unfinished.rename(folder)
    return folder


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:12]


def _run(*command: str) -> None:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}:\n{done.stdout[-3000:]}"
