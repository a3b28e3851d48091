"""Weights from a safetensors file, into a model that had none. Never two copies: each tensor is mapped, brought into
its form and put in its place before the next one is read."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from providers.local.devices import Precision
from providers.local.errors import ModelError
from providers.local.linear import Compressed, Packed, can_pack
from providers.local.moondream2.config import MoondreamConfig
from providers.local.moondream2.model import Moondream

_OLD_NAMES = (
    (r"\._orig_mod", ""),
    (r"^vision_encoder\.encoder\.model\.visual\.patch_embed\.linear\.", "vision.patch_emb."),
    (r"^vision_encoder\.encoder\.model\.visual\.pos_embed$", "vision.pos_emb"),
    (r"^vision_encoder\.encoder\.model\.visual\.norm\.", "vision.post_ln."),
    (r"^vision_encoder\.encoder\.model\.visual\.blocks\.(\d+)\.norm([12])\.", r"vision.blocks.\1.ln\2."),
    (r"^vision_encoder\.encoder\.model\.visual\.", "vision."),
    (r"^vision_encoder\.projection\.mlp\.", "vision.proj_mlp."),
    (r"^text_model\.transformer\.embd\.wte\.weight$", "text.wte"),
    (r"^text_model\.transformer\.h\.(\d+)\.mixer\.Wqkv\.", r"text.blocks.\1.attn.qkv."),
    (r"^text_model\.transformer\.h\.(\d+)\.mixer\.out_proj\.", r"text.blocks.\1.attn.proj."),
    (r"^text_model\.transformer\.h\.", "text.blocks."),
    (r"^text_model\.lm_head\.ln\.", "text.post_ln."),
    (r"^text_model\.lm_head\.linear\.", "text.lm_head."),
    (r"^region_model\.(coordinate|size)_features\.weight$", r"region.\1_features"),
    (r"^region_model\.", "region."),
    (r"^region\.coordinate_", "region.coord_"),
)
"""Of earlier checkpoints, and what the parts are called since."""

_TRANSPOSED = re.compile(r"^region_model\.(coordinate|size)_features\.weight$")
"""Of the earlier ones, these lie on their side."""
_NOT_WEIGHTS = re.compile(r"^text\.blocks\.\d+\.kv_cache\.[kv]_cache$")
"""Saved by a model that was running."""
_QUANTISED = re.compile(r"\.(packed|scale|zero_point)$")
_LEFT_WHOLE = ("vision.patch_emb", "region.coord_encoder", "region.size_encoder")
"""Small layers, through which all that is seen has to go."""
_TEXT_BLOCKS = "text.blocks."
"""Two thirds of the model, and what stands 4 bits best: the encoder is left at 8."""


def load_model(config: MoondreamConfig, file: Path, device: torch.device, precision: Precision) -> Moondream:
    """Every tensor by its exact name and shape. Raises ModelError, which names what is missing, unknown or of
    another shape."""
    with torch.device("meta"):
        model = Moondream(config)
    expected = dict(model.named_parameters())
    with _opened(file) as stored:
        names = dict(_named(stored.keys()))
        if problems := _problems(expected, names):
            raise ModelError(f"{file}: not the weights of this configuration: {problems}")
        for name, key in sorted(names.items()):  # a bias before its weight, which settles the form of both
            found = stored.get_tensor(key)
            tensor = found.t() if _TRANSPOSED.match(_bare(key)) else found
            wanted = expected[name].shape
            if tensor.shape != wanted:
                raise ModelError(f"{file}: {key} is {list(tensor.shape)}, and should be {list(wanted)}")
            dtype = _kept_as(name, tensor, precision)
            put(model, name, tensor.to(device=device, dtype=dtype, copy=True).contiguous(), precision)
    model.prepare()
    return model


def put(model: Moondream, name: str, tensor: Tensor, precision: Precision) -> None:
    """This parameter is known. With the weight of a linear layer, whose bias has to be there already, the layer gets
    the form in which it is used."""
    owner, _, last = name.rpartition(".")
    setattr(model.get_submodule(owner), last, nn.Parameter(tensor, requires_grad=False))
    layer = model.get_submodule(owner)
    if isinstance(layer, nn.Linear) and last == "weight":
        _settle(model, owner, layer, precision)


def _settle(model: Moondream, name: str, layer: nn.Linear, precision: Precision) -> None:
    if precision.bits and name not in _LEFT_WHOLE:
        bits = precision.bits if name.startswith(_TEXT_BLOCKS) else 8
        model.set_submodule(name, Compressed(layer, bits))
    elif _is_packed(name, layer, precision):
        model.set_submodule(name, Packed(layer))


def _is_packed(name: str, layer: nn.Linear, precision: Precision) -> bool:
    """The encoder's layers always have many rows at once, which gain nothing."""
    is_f32 = layer.weight.device.type == "cpu" and precision.dtype == torch.float32
    return is_f32 and can_pack() and not name.startswith("vision.") and name not in _LEFT_WHOLE


def _kept_as(name: str, tensor: Tensor, precision: Precision) -> torch.dtype:
    """Words that are only looked up need no more than they have in the file."""
    return tensor.dtype if precision.bits and name == "text.wte" else precision.dtype


@contextmanager
def _opened(file: Path) -> Iterator[safe_open]:
    try:
        with safe_open(file, framework="pt") as stored:
            yield stored
    except FileNotFoundError as error:
        raise ModelError(f"{file}: no such file") from error
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{file}: {error}") from error


def _bare(key: str) -> str:
    return key.removeprefix("model.").replace("._orig_mod", "")


def _named(keys: list[str]) -> Iterator[tuple[str, str]]:
    """Our name of each tensor, and its own."""
    for key in keys:
        name = key.removeprefix("model.")
        for old, new in _OLD_NAMES:
            name = re.sub(old, new, name)
        if not _NOT_WEIGHTS.match(name):
            yield name, key


def _problems(expected: dict[str, nn.Parameter], found: dict[str, str]) -> str:
    if any(_QUANTISED.search(key) for key in found.values()):
        return "it is a quantised checkpoint (int4, for CUDA only); take the bfloat16 one, lva-model can quantise it"
    missing, unknown = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    told = [
        f"{len(names)} {what}, such as {', '.join(names[:3])}"
        for what, names in (("tensors are missing", missing), ("are unknown", unknown))
        if names
    ]
    return "; ".join(told)
