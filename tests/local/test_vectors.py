"""The engine gives what the reference gave, step by step, alone and in mixed batches; and the comparison can fail."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from providers.local.errors import ModelError
from providers.local.moondream2 import batch, cache, crops, region, skills, text, vision
from providers.local.moondream2.vectors import steps as compared
from providers.local.moondream2.vectors.comparison import Comparison
from providers.local.moondream2.vectors.folder import Vectors
from tests.local.conftest import VECTORS

STEPS = (
    "prompts",
    "tiling and resizing",
    "small parts",
    "one picture, layer by layer",
    "vision and prefix of every picture",
    "answers, each alone",
    "answers, all in one batch",
    "answers, shuffled and entering late",
)


@pytest.fixture(scope="module")
def comparisons() -> dict[str, Comparison]:
    return {step.name: step for step in compared(Vectors(VECTORS))}


@pytest.mark.parametrize("name", STEPS)
def test_every_recorded_number_and_word_is_ours(comparisons: dict[str, Comparison], name: str) -> None:
    step = comparisons[name]
    print(step.line())
    assert step.problems == []
    assert step.compared >= 24


def test_no_step_is_left_out(comparisons: dict[str, Comparison]) -> None:
    assert tuple(comparisons) == STEPS


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same vectors with a few of their cases, about a picture of one crop and one of eleven: for what only has to
    be found once."""
    folder = tmp_path_factory.mktemp("few") / "vectors"
    shutil.copytree(VECTORS, folder)
    index = json.loads((folder / "vectors.json").read_text())
    kept = [index["images"][0]["name"], index["images"][4]["name"]]
    for task in ("query", "caption", "spatial_query", "reasoning", "detect", "point"):
        index[task] = [case for case in index[task] if case["image"] in kept]
    index["batch"]["rows"] = [row for row in index["batch"]["rows"] if row["image"] in kept]
    (folder / "vectors.json").write_text(json.dumps(index))
    return folder


def _causal_prefix(_self: Any, _layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    _self._kept.append((k, v))
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)


def _swapped(module: Any, name: str) -> Callable[[pytest.MonkeyPatch], None]:
    """Sines before cosines."""

    def change(patch: pytest.MonkeyPatch) -> None:
        usual = getattr(module, name)

        def swapped(values: Tensor, frequencies: Tensor) -> Tensor:
            cos, sin = usual(values, frequencies).chunk(2, dim=-1)
            return torch.cat([sin, cos], dim=-1)

        patch.setattr(module, name, swapped)

    return change


def _setting(owner: Any, name: str, value: Any) -> Callable[[pytest.MonkeyPatch], None]:
    return lambda patch: patch.setattr(owner, name, value)


def _bins_by_1024(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(region.Region, "size", lambda self, bin_: 2.0 ** (bin_ / 1024 * 10 - 10))


def _local_first(patch: pytest.MonkeyPatch) -> None:
    usual = vision.Vision.joined

    def swapped(self: vision.Vision, cut: crops.Crops, features: Tensor) -> Tensor:
        whole, parts = usual(self, cut, features).chunk(2, dim=-1)
        return torch.cat([parts, whole], dim=-1)

    patch.setattr(vision.Vision, "joined", swapped)


def _no_bans(patch: pytest.MonkeyPatch) -> None:
    usual = skills.ChooseToken

    def unbanned(feed: Any = None, _banned: Any = (), sampling: Any = skills.GREEDY) -> skills.ChooseToken:
        return usual(feed, (), sampling)

    patch.setattr(skills, "ChooseToken", unbanned)


def _after_post_ln(patch: pytest.MonkeyPatch) -> None:
    usual = batch.Batch._of_places

    def normed(self: batch.Batch, steps: Any, hidden: Tensor) -> Any:
        return usual(self, steps, self.model.text.post_ln(hidden))

    patch.setattr(batch.Batch, "_of_places", normed)


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(_setting(cache.PrefixPass, "__call__", _causal_prefix), id="causal prefix"),
        pytest.param(_swapped(region, "fourier_features"), id="sines first"),
        pytest.param(_setting(text, "ROTARY_BASE", 9_999.0), id="rotary base"),
        pytest.param(_bins_by_1024, id="sizes by 1024"),
        pytest.param(_local_first, id="local features first"),
        pytest.param(_no_bans, id="no bans"),
        pytest.param(_after_post_ln, id="places after post_ln"),
        pytest.param(_setting(vision, "_kept", lambda i, n, grid, margin: slice(0, grid)), id="no margins"),
    ],
)
def test_a_fault_in_the_engine_is_found(
    monkeypatch: pytest.MonkeyPatch, few: Path, fault: Callable[[pytest.MonkeyPatch], None]
) -> None:
    steps = ("small parts", "answers, all in one batch")
    assert not [problem for step in compared(Vectors(few), steps) for problem in step.problems]
    fault(monkeypatch)
    try:
        found = [problem for step in compared(Vectors(few), steps) for problem in step.problems]
    except RuntimeError as error:  # shapes that no longer fit
        found = [str(error)]
    assert found


def test_the_command_names_every_token_that_differs_and_ends_with_1(few: Path, tmp_path: Path) -> None:
    folder = tmp_path / "vectors"
    shutil.copytree(few, folder)
    index = json.loads((folder / "vectors.json").read_text())
    index["caption"][0]["tokens"][1] += 1
    (folder / "vectors.json").write_text(json.dumps(index))
    ended = _command(folder)
    assert ended.returncode == 1
    assert "largest difference" in ended.stdout
    differs = [line for line in ended.stdout.splitlines() if "DIFFERS" in line]
    print(ended.stdout, ended.stderr)
    assert {index["caption"][0]["key"]} == {line.split()[1].rstrip(":") for line in differs}
    assert ended.stdout.endswith("it does NOT agree\n")


def test_files_that_are_not_those_recorded_are_refused(tmp_path: Path) -> None:
    shutil.copytree(VECTORS, tmp_path / "vectors")
    with (tmp_path / "vectors" / "weights.safetensors").open("r+b") as weights:
        weights.seek(-1, 2)
        weights.write(b"\0")
    with pytest.raises(ModelError, match=r"weights\.safetensors: not the file"):
        Vectors(tmp_path / "vectors")
    ended = _command(tmp_path / "vectors")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "weights.safetensors" in ended.stderr


def _command(folder: Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "providers.local", "check-vectors", str(folder)]
    return subprocess.run(command, capture_output=True, text=True, timeout=250, check=False)
