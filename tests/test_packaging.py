"""What the project's own shape promises."""

import importlib
import pkgutil
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("daemon", "pipeline", "providers")


def modules(package: str) -> list[str]:
    return [found.name for found in pkgutil.walk_packages([str(ROOT / package)], f"{package}.")]


def test_no_module_has_a_name_that_another_package_owns() -> None:
    """python-daemon ships a top-level `daemon` with these modules."""
    for package in PACKAGES:
        assert not [name for name in modules(package) if name.split(".")[-1] in ("daemon", "pidfile")]
    assert (ROOT / "daemon" / "__init__.py").read_text() == ""


def test_the_packages_that_are_imported_are_these() -> None:
    for package in PACKAGES:
        assert Path(str(importlib.import_module(package).__file__)).parent == ROOT / package


def test_every_package_is_listed_for_installation() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    folders = {
        ".".join(file.parent.relative_to(ROOT).parts) for package in PACKAGES for file in (ROOT / package).rglob("*.py")
    }
    assert set(project["tool"]["setuptools"]["packages"]) == folders


def test_every_file_that_code_reads_is_packaged() -> None:
    data = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    for folder in ("pipeline/sql", "daemon/demo"):
        kinds = {file.suffix for file in (ROOT / folder).iterdir() if file.is_file() and file.suffix != ".py"}
        assert kinds <= {Path(pattern).suffix for pattern in data[folder.replace("/", ".")]}


@pytest.mark.parametrize("name", ["base", "dev", "models"])
def test_what_is_installed_is_locked_with_hashes(name: str) -> None:
    text = (ROOT / "requirements" / f"{name}.txt").read_text()
    entries = re.split(r"\n(?=[a-z0-9])", text)
    assert len(entries) > 40
    assert [entry.split()[0] for entry in entries if "--hash=sha256:" not in entry] == []
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    locked = {re.split(r"[=\[ ]", entry, maxsplit=1)[0].lower() for entry in entries}
    wanted = [*project["dependencies"], *(project["optional-dependencies"]["models"] if name == "models" else [])]
    assert {re.split(r"[<>=\[]", each, maxsplit=1)[0].lower() for each in wanted} <= locked


def test_the_demo_stays_small() -> None:
    demo = ROOT / "daemon" / "demo"
    assert (demo / "yard.mp4").stat().st_size <= 3_000_000
    assert (demo / "world-yolo11n.onnx").stat().st_size <= 6_000_000
