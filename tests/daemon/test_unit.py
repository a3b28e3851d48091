"""The unit file: what systemd itself says of it, and that its command works."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.daemon.lva import lva

UNIT = Path(__file__).parents[2] / "deploy" / "systemd" / "lva.service"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_finds_nothing_wrong_with_the_unit(tmp_path: Path) -> None:
    """Where it will be installed there is nothing here, so the command is that of this Python instead."""
    unit = tmp_path / "lva.service"
    unit.write_text(re.sub(r"(?<=^ExecStart=)\S+", sys.executable, UNIT.read_text(), flags=re.MULTILINE))
    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False)
    ours = [line for line in done.stderr.splitlines() if "lva.service" in line]
    assert (done.returncode, ours) == (0, [])


def test_the_command_of_the_unit_is_one_that_lva_knows() -> None:
    [command] = re.findall(r"^ExecStart=\S+ -m daemon (.*)$", UNIT.read_text(), flags=re.MULTILINE)
    done = lva(*command.replace("/etc/lva/config.toml", "/nowhere/config.toml").split())
    assert done.returncode == 78
    assert done.stderr.startswith("/nowhere/config.toml: no such file")


def test_the_unit_gives_the_daemon_more_time_to_stop_than_it_asks_for() -> None:
    [timeout_s] = re.findall(r"^TimeoutStopSec=(\d+)$", UNIT.read_text(), flags=re.MULTILINE)
    assert int(timeout_s) > 30 + 5
