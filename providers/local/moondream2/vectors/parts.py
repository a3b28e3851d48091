"""Prompts, tiling, and the small parts of the model."""

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from providers.local.moondream2.batch import kept_probabilities
from providers.local.moondream2.config import MoondreamConfig
from providers.local.moondream2.crops import tiling
from providers.local.moondream2.skills import Sampling
from providers.local.moondream2.text import rotary_table, turned
from providers.local.moondream2.tokens import Tokens
from providers.local.moondream2.vectors.answers import cases
from providers.local.moondream2.vectors.comparison import Comparison
from providers.local.moondream2.vectors.folder import Vectors, interleaved
from providers.local.moondream2.vision import averaging

EXACT = 1e-9
"""Of boxes and points, when their bins are the same."""


def prompts(vectors: Vectors, step: Comparison) -> None:
    told = vectors.index["units"]["official_prompts"]
    stand_in = _StandIn(vectors.tokens, told["text_ids"])
    ours = {
        "query": stand_in.query("-"),
        "query_reasoning": stand_in.query("-", reasoning=True),
        "query_text_only": [stand_in.ids.bos_id, *stand_in.query("-")],
        "query_with_point_and_box": stand_in.query("-", [(0.1, 0.2), (0.1, 0.2, 0.3, 0.4)]),
        "detect": stand_in.detect("-"),
        "point": stand_in.point("-"),
        **{f"caption_{length}": stand_in.caption(length) for length in ("short", "normal", "long")},
        "answer_after_reasoning": [stand_in.ids.answer_id],
    }
    for name, ids in ours.items():
        step.same(name, ids, told[name])
    for case in cases(vectors):
        step.same(case.key, case.prompt, case.told["prompt_ids"])


def pictures(vectors: Vectors, step: Comparison) -> None:
    for told in vectors.index["units"]["tiling"]:
        ours = tiling(told["width"], told["height"], vectors.config.vision)
        step.same(f"{told['width']} x {told['height']}", list(ours), told["tiling_hw"])
    for told in vectors.index["images"]:
        crops = vectors.crops[told["name"]]
        pixels = np.concatenate([crops.pixels] * 2) if crops.is_whole else crops.pixels
        step.same(f"{told['name']} tiling", [crops.rows, crops.cols], told["tiling_hw"])
        step.same(f"{told['name']} pixels", hashlib.sha256(pixels.tobytes()).hexdigest(), told["crops_sha256"])


def units(vectors: Vectors, step: Comparison) -> None:
    units, golden, region, allowed = vectors.index["units"], vectors.golden, vectors.model.region, vectors.allowed
    table = rotary_table(vectors.config.text)
    told = units["rope_table"]
    step.close("rope_table", table[told["positions"]], golden[told["array"]], allowed["unit_rope"])
    told = units["rope"]
    ours = interleaved(turned(golden[told["in"]][None], table[told["positions"]][None])[0], table.shape[1])
    step.close("rope", ours, golden[told["out"]], allowed["unit_rope"])
    at = vectors.model.device
    coords = region.encode_coords(torch.tensor(units["coord_embed"]["x"], device=at)[:, None]).cpu()
    step.close("coord_embed", coords, golden[units["coord_embed"]["array"]], allowed["unit_other"])
    sizes = region.encode_sizes(torch.tensor(units["size_embed"]["wh"], device=at)).cpu()
    step.close("size_embed", sizes, golden[units["size_embed"]["array"]], allowed["unit_other"])
    hidden, loose = golden["unit.hidden_in"].to(at), allowed["unit_region_and_head_logits"]
    step.close("coord_logits", region.coord_logits(hidden).cpu(), golden["unit.coord_logits"], loose)
    step.close("size_logits", region.size_logits(hidden).flatten(1).cpu(), golden["unit.size_logits"], loose)
    step.close("lm_logits", vectors.model.text.logits(hidden).cpu(), golden["unit.lm_logits"], loose)
    for told in units["coord_bins"]:
        step.same(f"coordinate of bin {told['bin']}", region.coord(told["bin"]), told["value"])
    for told in units["size_bins"]:
        ours = torch.tensor(region.size(told["bin"]))
        step.close(f"size of bin {told['bin']}", ours, torch.tensor(told["value"]), EXACT)
    for told in units["top_p"]:
        kept = kept_probabilities(torch.tensor(told["logits"]), Sampling(told["temperature"], told["top_p"]))
        step.close("top_p", kept, torch.tensor(told["probabilities"]), allowed["unit_other"])
    for told in units["reconstruct"]:
        _stitching(vectors, step, told)


def _stitching(vectors: Vectors, step: Comparison, told: Mapping[str, Any]) -> None:
    rows, cols = told["tiling_hw"]
    grid = vectors.config.vision.grid
    parts = torch.arange(rows * cols * grid * grid, dtype=torch.float64).view(rows * cols, grid * grid, 1)
    canvas = vectors.model.vision.stitched(parts, rows, cols)[..., 0]
    step.close(f"stitched {rows} x {cols}", canvas, vectors.golden[told["array"]], 0.5)
    down, across = (averaging(size, grid).double() for size in canvas.shape)
    pooled = down @ canvas @ across.T
    theirs = vectors.golden[told["pooled"]]
    step.close(f"pooled {rows} x {cols}", pooled / theirs.abs().max(), theirs / theirs.abs().max(), 1e-6)


class _StandIn(Tokens):
    """With the templates of the published model, and some words that are always the same."""

    def __init__(self, tokens: Tokens, words: list[int]) -> None:
        super().__init__(tokens._tokenizer, MoondreamConfig())
        self._words = words

    def encode(self, text: str) -> list[int]:
        return self._words
