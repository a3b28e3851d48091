"""A folder of recorded answers, read and checked, with the model that is to give them too."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from providers.local.devices import precision_of
from providers.local.errors import ModelError
from providers.local.moondream2.config import MoondreamConfig, load_config
from providers.local.moondream2.crops import Crops, crops_of
from providers.local.moondream2.model import Moondream
from providers.local.moondream2.tokens import Tokens, load_tokens
from providers.local.moondream2.vectors.comparison import Comparison
from providers.local.moondream2.weights import load_model

FORMAT = "moondream2-golden-1"


class Vectors:
    """A folder, and the model in it. Raises ModelError where it is none."""

    def __init__(self, folder: Path, device: str = "cpu", precision: str = "f32") -> None:
        self.folder = folder
        try:
            self.index: Mapping[str, Any] = json.loads((folder / "vectors.json").read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise ModelError(f"{folder / 'vectors.json'}: {error}") from error
        if self.index.get("format") != FORMAT:
            raise ModelError(f"{folder}: format {self.index.get('format')!r}; this program knows {FORMAT!r}")
        self._check_files()
        self.golden: Mapping[str, Tensor] = load_file(folder / "golden.safetensors")
        self.config: MoondreamConfig = load_config(folder / "config.json")
        self.tokens: Tokens = load_tokens(folder / "tokenizer.json", self.config)
        torch.backends.cuda.matmul.allow_tf32 = False
        self.model: Moondream = load_model(
            self.config,
            folder / "weights.safetensors",
            torch.device(device),
            precision_of(precision, torch.device(device)),
        )
        self.allowed: Mapping[str, float] = self.index["tolerances"]["recommended_atol_float32"]
        self.crops: Mapping[str, Crops] = {told["name"]: self._cut(told["file"]) for told in self.index["images"]}

    def _check_files(self) -> None:
        for name, told in self.index["files"].items():
            content = (self.folder / name).read_bytes()
            if hashlib.sha256(content).hexdigest() != told["sha256"]:
                raise ModelError(f"{self.folder / name}: not the file that vectors.json tells of")

    def _cut(self, file: str) -> Crops:
        with Image.open(self.folder / file) as picture:
            return crops_of(picture, self.config.vision)

    def close(self, step: Comparison, array: str, ours: Tensor, tolerance: str) -> None:
        theirs = self.golden[array]
        step.close(array, ours.float().cpu().reshape(theirs.shape), theirs, self.allowed[tolerance])


def interleaved(x: Tensor, half: int) -> Tensor:
    """[…, head_dim] as the reference keeps it: its turned numbers in pairs."""
    pairs = torch.stack([x[..., :half], x[..., half : 2 * half]], dim=-1).flatten(-2)
    return torch.cat([pairs, x[..., 2 * half :]], dim=-1)
