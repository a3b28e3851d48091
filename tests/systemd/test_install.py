"""The installer as far as it can be tried without a system of its own; tests/systemd/test_nspawn.py has the rest."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.daemon.lva import lva

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"


def run(script: str, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    command = [str(DEPLOY / script), *arguments]
    return subprocess.run(command, env={**os.environ, **settings}, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("script", ["install.sh", "uninstall.sh"])
@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"PREFIX": "usr"}, "PREFIX must be an absolute path"),
        ({"PREFIX": "/home/somebody"}, "the service sees nothing of /home/somebody"),
        ({"PREFIX": "/opt/my lva"}, "must be plain paths"),
    ],
)
def test_paths_that_can_not_work_are_refused(
    script: str, settings: dict[str, str], complaint: str, tmp_path: Path
) -> None:
    done = run(script, DESTDIR=str(tmp_path), **settings)
    assert (done.returncode, complaint in done.stderr) == (1, True), done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("script", ["install.sh", "uninstall.sh"])
def test_a_setting_given_as_an_argument_is_not_passed_over(script: str, tmp_path: Path) -> None:
    """It would touch this system, not the tree that was meant."""
    done = run(script, f"DESTDIR={tmp_path}", DESTDIR=str(tmp_path))
    assert done.returncode == 1
    assert "only variables" in done.stderr


def test_an_interpreter_that_the_service_would_not_see_is_refused(tmp_path: Path) -> None:
    """One of pyenv, say, whose folder is under somebody's home."""
    interpreter = tmp_path / "python3"
    interpreter.write_text("#!/bin/sh\necho '/home/somebody/.pyenv/bin/python3.13 True'\n")
    interpreter.chmod(0o755)
    done = run("install.sh", DESTDIR=str(tmp_path / "tree"), PYTHON=str(interpreter))
    assert "the service can't see /home/somebody/.pyenv/bin/python3.13" in done.stderr
    assert not (tmp_path / "tree").exists()


def test_uninstall_takes_away_what_is_ours_and_leaves_what_is_the_operators(tmp_path: Path) -> None:
    ours = ["usr/lib/lva/venv/bin/lva", "usr/bin/lva", "usr/lib/systemd/system/lva.service"]
    ours.append("usr/lib/systemd/system/lva-model.service")
    theirs = [
        "etc/lva/config.toml",
        "etc/lva/lva-model.toml",
        "etc/lva/credentials/door_password",
        "var/lib/lva/journal.db",
    ]
    for name in ours + theirs:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert run("uninstall.sh", DESTDIR=str(tmp_path)).returncode == 0
    assert files(tmp_path) == set(theirs)
    assert run("uninstall.sh", DESTDIR=str(tmp_path), PURGE="1").returncode == 0
    assert files(tmp_path) == set()


def test_the_configuration_that_is_installed_is_good(tmp_path: Path) -> None:
    demo = ROOT / "daemon" / "demo"
    config = tmp_path / "config.toml"
    config.write_text((DEPLOY / "config.toml").read_text().replace("/usr/lib/lva/venv/demo", str(demo)))
    assert lva("validate", "--config", str(config)).stdout == f"{config}: good: 1 camera, 1 provider, 0 questions\n"


def files(tree: Path) -> set[str]:
    return {str(path.relative_to(tree)) for path in tree.rglob("*") if path.is_file()}
