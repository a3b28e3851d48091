"""Moondream 2 at full size with random weights, each stage against what the device could do at most, and against
transformers' LLaVA of like size; as Markdown.

    python -m daemon.bench.gpu > docs/gpu.md

The floor of a picture is its operations over the rate of a large matrix product; that of a step of decoding, the bytes
of the decoder's weights and of what its rows remember, over the rate of a large copy. The run measures both rates too.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import torch
from torch import Tensor

from daemon.bench.decoding import decoding, pictures, random_model, seconds
from providers.local.moondream2.batch import Batch
from providers.local.moondream2.cache import slot_bytes
from providers.local.moondream2.config import MoondreamConfig
from providers.local.moondream2.model import Moondream

BATCHES = (1, 2, 4, 8, 16, 32, 64)
STEPS = 20
ROUNDS = 5
PROMPT = 16
"""Tokens behind a picture."""


@dataclass(frozen=True, slots=True)
class Rates:
    """Bytes that are read and written, and operations, per second."""

    bytes_per_s: float
    flops: float


@dataclass(frozen=True, slots=True)
class Stage:
    """So many pictures encoded, or rows taking a step; what it takes at least."""

    name: str
    batch: int
    took_s: float
    floor_s: float


def rates(device: torch.device, dtype: torch.dtype, side: int) -> Rates:
    """Of a copy and a product of matrices [side, side]."""
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(a)
    copy_s, product_s = _median(lambda: out.copy_(a)), _median(lambda: torch.mm(a, b, out=out))
    return Rates(2 * a.numel() * a.element_size() / copy_s, 2 * side**3 / product_s)


def stages(model: Moondream, found: Rates, batches: Sequence[int]) -> Iterator[Stage]:
    config = model.config
    shown = pictures(model, max(batches))
    prefixes = []
    for batch in batches:
        Batch(model).encode(shown[:batch])
        took_s = _median(lambda batch=batch: Batch(model).encode(shown[:batch]))  # type: ignore[misc]
        yield Stage("picture of one crop, with its prefix", batch, took_s, batch * picture_flops(model) / found.flops)
    for one in shown:
        prefixes += Batch(model).encode([one])
    places = config.prefix_len + PROMPT
    weights = sum(one.numel() * one.element_size() for one in model.text.parameters())
    for batch, step_s in decoding(model, prefixes, list(batches), STEPS).items():
        remembered = batch * places * slot_bytes(config.text, model.dtype)
        yield Stage("step of decoding", batch, step_s, (weights + remembered) / found.bytes_per_s)


def picture_flops(model: Moondream) -> float:
    """Two for each weight and token, and four for each pair of tokens, layer and dimension."""
    config = model.config
    patches, prefix = config.vision.grid**2, config.prefix_len
    vision = sum(one.numel() for one in model.vision.parameters())
    text = sum(one.numel() for one in model.text.blocks.parameters())
    weights = 2.0 * (vision * patches + text * prefix)
    seen = 4.0 * patches**2 * config.vision.enc_dim * config.vision.enc_n_layers
    return float(weights + seen + 4.0 * prefix**2 * config.text.dim * config.text.n_layers)


def llava_steps(
    config: MoondreamConfig, device: torch.device, dtype: torch.dtype, batches: Sequence[int]
) -> dict[int, float]:
    """Seconds a token of transformers' LLaVA whose parts have the same sizes; its pictures are as many tokens."""
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    vision, text = config.vision, config.text
    told = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=vision.enc_dim,
            intermediate_size=vision.enc_ff_dim,
            num_hidden_layers=vision.enc_n_layers,
            num_attention_heads=vision.enc_n_heads,
            image_size=vision.crop_size,
            patch_size=vision.enc_patch_size,
        ),
        text_config=LlamaConfig(
            vocab_size=text.vocab_size,
            hidden_size=text.dim,
            intermediate_size=text.ff_dim * 2 // 3,  # three matrices instead of two
            num_hidden_layers=text.n_layers,
            num_attention_heads=text.n_heads,
        ),
        image_token_index=text.vocab_size - 1,
    )
    with torch.device(device):
        model = LlavaForConditionalGeneration(told).to(dtype).eval()
    found = {}
    for batch in batches:
        ids = torch.full((batch, config.prefix_len + PROMPT), text.vocab_size - 1, device=device)
        ids[:, :1], ids[:, config.prefix_len :] = 1, 5
        pixels = torch.zeros(batch, 3, vision.crop_size, vision.crop_size, device=device, dtype=dtype)
        short, long = (_median(_generating(model, ids, pixels, tokens), rounds=3) for tokens in (1, 1 + STEPS))
        found[batch] = (long - short) / STEPS
    return found


def _generating(model: Any, ids: Tensor, pixels: Tensor, tokens: int) -> Callable[[], object]:
    how = {"min_new_tokens": tokens, "max_new_tokens": tokens, "do_sample": False, "pad_token_id": 0}

    def generate() -> object:
        with torch.inference_mode():
            return model.generate(input_ids=ids, pixel_values=pixels, attention_mask=torch.ones_like(ids), **how)

    return generate


def table(device: str, found: Rates, told: Sequence[Stage], llava: dict[int, float]) -> str:
    now = datetime.now(UTC)
    lines = [
        f"# Moondream 2 on {device}, {now:%Y-%m-%d}",
        "",
        "Random weights, measured by `python -m daemon.bench.gpu`, as were the rates that the device reaches: "
        f"a large copy moves {found.bytes_per_s / 1e9:.0f} GB/s, a large product of matrices makes "
        f"{found.flops / 1e12:.2f} TFLOP/s.",
        "",
        "| stage | batch | ms | per second | least possible, ms | share of the possible | LLaVA's, per second |",
        "|---|---|---|---|---|---|---|",
    ]
    for one in told:
        theirs = f"{one.batch / llava[one.batch]:.1f}" if one.name == "step of decoding" and llava else ""
        lines.append(
            f"| {one.name} | {one.batch} | {one.took_s * 1e3:.2f} | {one.batch / one.took_s:.1f} | "
            f"{one.floor_s * 1e3:.2f} | {one.floor_s / one.took_s:.0%} | {theirs} |"
        )
    return "\n".join(lines)


def measured(config: dict[str, Any], batches: Sequence[int], side: int) -> str:
    """On whichever device torch takes first."""
    model = random_model(MoondreamConfig.model_validate(config), "auto")
    name = torch.cuda.get_device_name() if model.device.type == "cuda" else str(model.device)
    found = rates(model.device, model.dtype, side)
    told = list(stages(model, found, batches))
    llava = llava_steps(model.config, model.device, model.dtype, batches)
    return table(f"{name}, {str(model.dtype).removeprefix('torch.')}", found, told, llava)


def _median(job: Callable[[], object], rounds: int = ROUNDS) -> float:
    job()
    return statistics.median(seconds(job) for _ in range(rounds))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=json.loads, default={}, help="sizes, as JSON; the published ones if left out")
    parser.add_argument("--batches", type=int, nargs="+", default=BATCHES)
    parser.add_argument("--side", type=int, default=8192, help="of the matrices that tell what the device can do")
    args = parser.parse_args()
    if not torch.cuda.is_available() and not args.config:
        sys.exit("not measured here: torch sees no GPU")
    print(measured(args.config, args.batches, args.side))


if __name__ == "__main__":
    main()
