"""Files of a model: both naming schemes load, and what is wrong with others is said by name."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from providers.local.devices import Precision
from providers.local.errors import ModelError
from providers.local.moondream2.config import MoondreamConfig, load_config
from providers.local.moondream2.tokens import Tokens, load_tokens
from providers.local.moondream2.weights import load_model
from tests.local.conftest import VECTORS
from tests.shared import SHARED

CPU = torch.device("cpu")
CONFIG = load_config(VECTORS / "config.json")


@pytest.fixture(scope="module")
def tensors() -> dict[str, torch.Tensor]:
    return load_file(VECTORS / "weights.safetensors")


def loaded(folder: Path, tensors: dict[str, torch.Tensor], dtype: torch.dtype = torch.float32) -> Any:
    file = folder / "some.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file)
    return load_model(CONFIG, file, CPU, Precision(dtype))


OLD = (
    ("region.coord_features", "region_model.coordinate_features.weight"),
    ("region.size_features", "region_model.size_features.weight"),
    ("region.coord_", "region_model.coordinate_"),
    ("region.", "region_model."),
    ("text.wte", "text_model.transformer.embd.wte.weight"),
    ("text.post_ln", "text_model.lm_head.ln"),
    ("text.lm_head", "text_model.lm_head.linear"),
    ("text.blocks.", "text_model.transformer.h."),
    (".attn.qkv", ".mixer.Wqkv"),
    (".attn.proj", ".mixer.out_proj"),
    ("vision.proj_mlp.", "vision_encoder.projection.mlp."),
    ("vision.patch_emb", "vision_encoder.encoder.model.visual.patch_embed.linear"),
    ("vision.pos_emb", "vision_encoder.encoder.model.visual.pos_embed"),
    ("vision.post_ln", "vision_encoder.encoder.model.visual.norm"),
    ("vision.", "vision_encoder.encoder.model.visual."),
)


def old_name(name: str) -> str:
    """Of an earlier checkpoint. Only text has other names for attention, only vision for its norms."""
    for new, old in OLD:
        if new.startswith(".") and not name.startswith("text_model"):
            continue
        name = name.replace(new, old) if new in name and not name.startswith(f"{new.split('.')[0]}_") else name
    if name.startswith("vision_encoder"):
        name = name.replace(".ln1.", ".norm1.").replace(".ln2.", ".norm2.")
    return name


def as_old(tensors: dict[str, torch.Tensor], infix: str = "") -> dict[str, torch.Tensor]:
    old = {old_name(name.removeprefix("model.")): tensor for name, tensor in tensors.items()}
    turned = {name: tensor.t() if name.endswith("_features.weight") else tensor for name, tensor in old.items()}
    return {name.replace(".weight", f"{infix}.weight"): tensor for name, tensor in turned.items()}


def test_the_older_names_are_those_of_the_older_files(tensors: dict[str, torch.Tensor]) -> None:
    if not SHARED.exists():
        pytest.skip("needs ../shared: the list of the published names")
    told = json.loads((SHARED / "moondream2" / "tensor_names.json").read_text())
    expected = {one["name"]: one["old_name"] for one in told}
    for name in tensors:
        assert old_name(name.removeprefix("model.")) == expected[name]


@pytest.mark.parametrize("form", ["as published", "without the prefix", "older", "older, compiled", "with a cache"])
def test_every_naming_scheme_gives_the_same_model(tmp_path: Path, tensors: dict[str, torch.Tensor], form: str) -> None:
    cache = {"model.text.blocks.0.kv_cache.k_cache": torch.zeros(2)}
    stored = {
        "as published": tensors,
        "without the prefix": {name.removeprefix("model."): tensor for name, tensor in tensors.items()},
        "older": as_old(tensors),
        "older, compiled": as_old(tensors, "._orig_mod"),
        "with a cache": tensors | cache,
    }[form]
    model = loaded(tmp_path, stored)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, tensors[f"model.{name}"].float()), name


def test_it_is_loaded_in_the_precision_that_is_asked_for(tmp_path: Path, tensors: dict[str, torch.Tensor]) -> None:
    model = loaded(tmp_path, tensors, torch.bfloat16)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert model.rotary.dtype == torch.float32


def _without(name: str) -> Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]:
    return lambda tensors: {key: value for key, value in tensors.items() if key != name}


def _with(name: str, tensor: torch.Tensor) -> Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]:
    return lambda tensors: tensors | {name: tensor}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_without("model.text.wte"), "1 tensors are missing, such as text.wte"),
        (_with("model.text.blocks.9.ln.bias", torch.zeros(1)), "1 are unknown, such as text.blocks.9.ln.bias"),
        (_with("model.text.wte", torch.zeros(7, 3)), r"text.wte is \[7, 3\], and should be \[704, 128\]"),
        (_with("model.text.blocks.0.mlp.fc1.weight.packed", torch.zeros(1)), "quantised checkpoint"),
    ],
)
def test_weights_of_another_model_are_refused_by_name(
    tmp_path: Path, tensors: dict[str, torch.Tensor], change: Any, words: str
) -> None:
    with pytest.raises(ModelError, match=words):
        loaded(tmp_path, change(tensors))


@pytest.mark.parametrize("content", [b"", b"hello", b"\xff" * 100])
def test_what_is_no_safetensors_file_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "model.safetensors"
    with pytest.raises(ModelError, match="no such file"):
        load_model(CONFIG, file, CPU, Precision(torch.float32))
    file.write_bytes(content)
    with pytest.raises(ModelError, match=r"model\.safetensors"):
        load_model(CONFIG, file, CPU, Precision(torch.float32))


def test_half_a_file_is_refused(tmp_path: Path) -> None:
    whole = (VECTORS / "weights.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match=r"model\.safetensors"):
        load_model(CONFIG, tmp_path / "model.safetensors", CPU, Precision(torch.float32))


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ("{", "no JSON"),
        ('{"text": {"dim": 100}}', "text: .*heads"),
        ('{"txt": {}}', "txt: Extra inputs"),
        ('{"vision": {"crop_size": 196}}', "takes 197"),
        ('{"text": {"dim": 1024}}', "must be the same"),
        ('{"region": {"size_out_dim": 3}}', "size_out_dim"),
    ],
)
def test_a_configuration_that_is_wrong_is_said_where(tmp_path: Path, told: str, words: str) -> None:
    (tmp_path / "config.json").write_text(told)
    with pytest.raises(ModelError, match=words):
        load_config(tmp_path / "config.json")


def test_the_published_configuration_is_all_defaults(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"architectures": ["HfMoondream"], "config": {}, "torch_dtype": "bfloat16"}')
    assert load_config(tmp_path / "config.json") == MoondreamConfig()
    with torch.device("meta"):
        from providers.local.moondream2.model import Moondream

        model = Moondream(MoondreamConfig())
    assert sum(parameter.numel() for parameter in model.parameters()) == 1_927_237_104
    assert len(list(model.parameters())) == 592


# ------------------------------------------------------------------------------------------------------------ words


@pytest.fixture(scope="module")
def tokens() -> Tokens:
    return load_tokens(VECTORS / "tokenizer.json", CONFIG)


@pytest.mark.parametrize(
    "text",
    [
        "<|endoftext|>",
        "what is<|md_reserved_4|>this",
        "<|md_reserved_2|><|md_reserved_2|>",
        "<<|endoftext|>|endoftext|>",
        "<|md_<|endoftext|>reserved_2|>",
    ],
)
def test_text_from_outside_never_becomes_a_control_token(tokens: Tokens, text: str) -> None:
    added = set(tokens._tokenizer.get_added_tokens_decoder())
    assert added & set(tokens._tokenizer.encode(text).ids)
    assert not added & set(tokens.encode(text))
    assert tokens.query(text)[:3] == tokens.query("a")[:3]


def test_other_text_comes_back_as_it_was(tokens: Tokens) -> None:
    for text in ("Is there a person?", " Ünïcödé 人 \n\t\x00", "a < b | c > d", ""):
        assert tokens.decode(tokens.encode(text)) == text


def test_a_tokenizer_of_another_model_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "tokenizer.json"
    with pytest.raises(ModelError, match="No such file"):
        load_tokens(file, CONFIG)
    file.write_text("{}")
    with pytest.raises(ModelError, match="no tokenizer"):
        load_tokens(file, CONFIG)
    shutil.copy(VECTORS / "tokenizer.json", file)
    few = CONFIG.model_copy(update={"text": CONFIG.text.model_copy(update={"vocab_size": 600})})
    with pytest.raises(ModelError, match="it has 704 words, the model 600"):
        load_tokens(file, few)
    with pytest.raises(ModelError, match="it has 704 words, the model 51200"):
        load_tokens(file, MoondreamConfig())


def test_the_stale_tokenizer_beside_the_published_weights_is_recognised(tmp_path: Path) -> None:
    """It has as many words and other control tokens: with it, the model answers nothing."""
    stale = Tokenizer.from_file(str(VECTORS / "tokenizer.json"))
    missing = MoondreamConfig().text.vocab_size - stale.get_vocab_size()
    stale.add_tokens([f"word{number}" for number in range(missing)])
    stale.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ModelError, match='"query" is'):
        load_tokens(tmp_path / "tokenizer.json", MoondreamConfig())
