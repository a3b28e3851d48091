"""The unit and its drop-ins: what systemd itself says of them, and that they fit the program."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from daemon.config import Config
from tests.daemon.lva import lva

UNITS = Path(__file__).parents[2] / "deploy" / "systemd"
UNIT, MODEL_UNIT = UNITS / "lva.service", UNITS / "lva-model.service"

needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")


def check(units: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([UNITS / "check.sh", units], capture_output=True, text=True, check=False)


def setting(name: str, unit: Path = UNIT) -> str:
    [value] = re.findall(rf"^{name}=(.*)$", unit.read_text(), flags=re.MULTILINE)
    return str(value)


@needs_systemd
def test_systemd_finds_nothing_wrong_and_no_variant_is_more_exposed_than_1_5() -> None:
    done = check(UNITS)
    assert (done.returncode, done.stderr) == (0, "")
    exposures = dict(re.findall(r"^(\S.*\S) +(\d\.\d)$", done.stdout, flags=re.MULTILINE))
    assert {"base", "usb", "cloud", "gpu", "usb + cloud", "gpu + cloud", "lva-model", "lva-model + gpu"} <= set(
        exposures
    )


@needs_systemd
@pytest.mark.parametrize(
    ("written", "instead", "complaint"),
    [
        ("KillMode=mixed", "KillMode=mixed # the daemon ends its children", "no comments behind a value"),
        ("KillMode=mixed", "KillMode=sometimes", "systemd-analyze verify"),
        ("ProtectSystem=strict", "ProtectSystm=strict", "systemd-analyze verify"),
        ("CapabilityBoundingSet=\n", "", "more exposed than"),
    ],
)
def test_a_mistake_in_the_unit_is_found(written: str, instead: str, complaint: str, tmp_path: Path) -> None:
    shutil.copytree(UNITS, tmp_path, dirs_exist_ok=True)
    (tmp_path / "lva.service").write_text(UNIT.read_text().replace(written, instead))
    done = check(tmp_path)
    assert done.returncode == 1
    assert complaint in done.stderr


@needs_systemd
def test_a_mistake_in_a_drop_in_is_found(tmp_path: Path) -> None:
    shutil.copytree(UNITS, tmp_path, dirs_exist_ok=True)
    (tmp_path / "drop-ins" / "usb.conf").write_text("[Service]\nDevicePolicy=loose\n")
    done = check(tmp_path)
    assert done.returncode == 1
    assert "usb: systemd-analyze verify" in done.stderr


def test_the_command_of_the_unit_is_one_that_lva_knows() -> None:
    _program, *command = setting("ExecStart").replace("/etc/lva/", "/nowhere/").split()
    done = lva(*command)
    assert done.returncode == 78
    assert done.stderr.startswith("/nowhere/config.toml: no such file")


def test_the_command_of_the_model_servers_unit_is_one_that_it_knows() -> None:
    _program, *command = setting("ExecStart", MODEL_UNIT).replace("/etc/lva/", "/nowhere/").split()
    server = [sys.executable, "-m", "providers.local", *command]
    done = subprocess.run(server, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (78, "lva-model: /nowhere/lva-model.toml: No such file or directory\n")


def test_both_units_have_the_same_sandbox() -> None:
    """But for what each one's comments say."""
    sandboxes = []
    for unit in (UNIT, MODEL_UNIT):
        text = unit.read_text()
        body = text[text.index("NoNewPrivileges=") : text.index("IPAddressAllow=")]
        sandboxes.append([line for line in body.splitlines() if not line.startswith("#")])
    assert sandboxes[0] == sandboxes[1]


def test_the_unit_gives_the_daemon_more_time_to_stop_than_it_asks_for() -> None:
    upload_s = 5
    assert int(setting("TimeoutStopSec")) > Config().drain_s + upload_s
