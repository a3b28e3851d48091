"""The forms of a linear layer: the same product, as exact as their bits allow."""

from io import BytesIO
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from providers.local.devices import Precision, precision_of
from providers.local.engine import Asked, open_engine
from providers.local.errors import ModelError
from providers.local.linear import GROUP, Compressed, Packed, pieces, rounded_up
from providers.local.moondream2.batch import Batch
from providers.local.moondream2.config import load_config
from providers.local.moondream2.crops import crops_of
from providers.local.moondream2.model import Moondream
from providers.local.moondream2.weights import load_model
from providers.local.settings import ModelSettings
from tests.local.conftest import VECTORS

ROWS = (1, 2, 7, 64)


def a_layer(cols: int = 4 * GROUP, rows: int = 96, bias: bool = True, seed: int = 0) -> nn.Linear:
    torch.manual_seed(seed)
    return nn.Linear(cols, rows, bias=bias).requires_grad_(False)


def error(ours: Tensor, theirs: Tensor) -> float:
    """As a share of what there is."""
    return float((ours - theirs).norm() / theirs.norm())


@pytest.mark.parametrize("bias", [True, False])
def test_a_packed_layer_gives_the_same(bias: bool) -> None:
    layer = a_layer(bias=bias)
    packed = Packed(layer)
    for rows in ROWS:
        x = torch.randn(rows, 3, layer.in_features)
        torch.testing.assert_close(packed(x), layer(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("rows", [9, 63, 64, 65, 730])
def test_a_packed_layer_takes_any_number_of_rows(rows: int) -> None:
    layer = a_layer()
    x = torch.randn(rows, layer.in_features)
    torch.testing.assert_close(Packed(layer)(x), layer(x), atol=1e-5, rtol=1e-5)


def test_a_packed_layer_multiplies_few_different_numbers_of_rows() -> None:
    taken = {rows: pieces(rows) for rows in range(1, 4000)}
    assert all(sum(sizes) == rows for rows, sizes in taken.items())
    assert all(rows <= rounded_up(rows) <= 1.25 * rows for rows in range(1, 64))
    assert len({rounded_up(size) for sizes in taken.values() for size in sizes}) == 23


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("bits", "allowed"), [(8, 0.01), (4, 0.1)])
def test_a_compressed_layer_gives_nearly_the_same(bits: int, allowed: float, bias: bool) -> None:
    layer = a_layer(bias=bias)
    compressed = Compressed(layer, bits)
    for rows in ROWS:
        x = torch.randn(2, rows, layer.in_features)
        assert compressed(x).shape == (2, rows, layer.out_features)
        assert 0 < error(compressed(x), layer(x)) < allowed


def test_what_8_bits_can_say_is_said_exactly() -> None:
    layer = a_layer()
    layer.weight.copy_(torch.randint(-126, 127, layer.weight.shape) / 127)
    layer.weight[:, 0] = 1.0
    x = torch.randn(5, layer.in_features)
    torch.testing.assert_close(Compressed(layer, 8)(x), layer(x), atol=1e-5, rtol=1e-5)


def test_what_4_bits_can_say_is_said_exactly() -> None:
    """Each group from 0 to 15 steps of its own, some of which are below zero."""
    layer = a_layer()
    steps = torch.randint(0, 16, (layer.out_features, layer.in_features // GROUP, GROUP)).float()
    steps[..., 0], steps[..., 1] = 0.0, 15.0
    zero = torch.randint(0, 16, (*steps.shape[:2], 1))
    scale = 2.0 ** -torch.randint(3, 9, (*steps.shape[:2], 1))
    layer.weight.copy_(((steps - zero) * scale).flatten(1))
    x = torch.randn(5, layer.in_features)
    torch.testing.assert_close(Compressed(layer, 4)(x), layer(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("bits", [8, 4])
def test_zeros_stay_zeros_and_one_large_weight_spoils_only_its_own(bits: int) -> None:
    layer = a_layer()
    layer.weight[0] = 0.0
    layer.weight[1, 5] = 1000.0
    x = torch.randn(5, layer.in_features)
    ours, theirs = Compressed(layer, bits)(x), layer(x)
    torch.testing.assert_close(ours[:, 0], theirs[:, 0])
    assert error(ours[:, 2:], theirs[:, 2:]) < 0.1


def test_rows_that_groups_do_not_divide_have_8_bits() -> None:
    layer = a_layer(cols=4 * GROUP + 6)
    x = torch.randn(3, layer.in_features)
    assert error(Compressed(layer, 4)(x), layer(x)) < 0.01


@pytest.mark.parametrize(("name", "allowed"), [("f32", 1e-5), ("int8", 0.05), ("int4", 0.5)])
def test_a_picture_is_seen_as_exactly_as_its_bits_allow(
    name: str, allowed: float, model: Moondream, pictures: dict[str, bytes]
) -> None:
    config = load_config(VECTORS / "config.json")
    cpu = torch.device("cpu")
    ours = load_model(config, VECTORS / "weights.safetensors", cpu, precision_of(name, cpu))
    crops = crops_of(Image.open(BytesIO(pictures["a_640x360"])), config.vision)
    [seen], [wanted] = Batch(ours).encode([crops]), Batch(model).encode([crops])
    off = error(seen.keys, wanted.keys)
    assert off < allowed
    assert off > allowed / 20 or name == "f32", "it was not compressed at all"


@pytest.mark.parametrize("precision", ["int8", "int4"])
async def test_the_engine_answers_in_few_bits(precision: str, model_folder: Path, pictures: dict[str, bytes]) -> None:
    settings = ModelSettings.model_validate({"folder": model_folder, "precision": precision, "threads": 1})
    async with open_engine(settings) as engine:
        assert engine.version.endswith(precision)
        found = await engine.detect(pictures["b_378x378_gray"], "dog", 3, Asked())
        told = await engine.query(pictures["b_378x378_gray"], "Is it?", Asked(max_tokens=5))
    assert len(found.boxes) <= 3
    assert told.text


def test_few_bits_are_for_a_cpu() -> None:
    with pytest.raises(ModelError, match="'int8' is for CPUs; on meta take bf16"):
        precision_of("int8", torch.device("meta"))
    assert precision_of("int4", torch.device("cpu")) == Precision(torch.float32, 4)
