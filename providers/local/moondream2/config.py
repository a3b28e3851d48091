"""The sizes of a model, from its config.json; the defaults are those of release 2025-06-21."""

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from providers.local.errors import ModelError


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TextConfig(_Part):
    """Of the decoder."""

    dim: int = Field(2048, gt=0)
    ff_dim: int = Field(8192, gt=0)
    n_layers: int = Field(24, gt=0)
    n_heads: int = Field(32, gt=0)
    n_kv_heads: int = Field(32, gt=0)
    vocab_size: int = Field(51200, gt=0)
    max_context: int = Field(2048, gt=0)
    prefix_attn: int = Field(730, gt=0)

    @property
    def head_dim(self) -> int:
        return self.dim // self.n_heads

    @property
    def rotary_dim(self) -> int:
        """Half of a head turns."""
        return self.head_dim // 2

    @model_validator(mode="after")
    def _check(self) -> "TextConfig":
        if self.dim % self.n_heads or self.head_dim % 4:
            raise ValueError(f"dim {self.dim} is not {self.n_heads} heads of a multiple of 4")
        if self.n_heads % self.n_kv_heads:
            raise ValueError(f"{self.n_heads} heads can't share {self.n_kv_heads} key and value heads")
        if self.prefix_attn >= self.max_context:
            raise ValueError(f"prefix_attn {self.prefix_attn} leaves no room in max_context {self.max_context}")
        return self


class VisionConfig(_Part):
    """Of the encoder and the tiling."""

    enc_dim: int = Field(1152, gt=0)
    enc_patch_size: int = Field(14, gt=0)
    enc_n_layers: int = Field(27, gt=0)
    enc_ff_dim: int = Field(4304, gt=0)
    enc_n_heads: int = Field(16, gt=0)
    proj_out_dim: int = Field(2048, gt=0)
    crop_size: int = Field(378, gt=0)
    in_channels: int = Field(3, ge=3, le=3)
    max_crops: int = Field(12, gt=0)
    overlap_margin: int = Field(4, ge=0)
    proj_inner_dim: int = Field(8192, gt=0)

    @property
    def grid(self) -> int:
        """Patches along a side of a crop."""
        return self.crop_size // self.enc_patch_size

    @property
    def margin_px(self) -> int:
        """What neighbouring crops see of each other, on each side."""
        return self.overlap_margin * self.enc_patch_size

    @property
    def window_px(self) -> int:
        """What a crop has for itself."""
        return self.crop_size - 2 * self.margin_px

    @model_validator(mode="after")
    def _check(self) -> "VisionConfig":
        if self.enc_dim % self.enc_n_heads:
            raise ValueError(f"enc_dim {self.enc_dim} is not {self.enc_n_heads} heads of the same size")
        if self.crop_size % self.enc_patch_size:
            raise ValueError(f"crop_size {self.crop_size} is not a multiple of enc_patch_size {self.enc_patch_size}")
        if self.window_px <= 0:
            raise ValueError(f"overlap_margin {self.overlap_margin} leaves nothing of a crop")
        return self


class RegionConfig(_Part):
    """Of places and sizes."""

    dim: int = Field(2048, gt=0)
    coord_feat_dim: int = Field(256, gt=0, multiple_of=2)
    coord_out_dim: int = Field(1024, gt=1)
    size_feat_dim: int = Field(512, gt=0, multiple_of=2)
    size_out_dim: int = Field(2048, gt=3, multiple_of=2)
    inner_dim: int = Field(8192, gt=0)


class Affixes(_Part):
    """What stands before and behind the words of a prompt."""

    prefix: tuple[int, ...]
    suffix: tuple[int, ...]


class CaptionPrompts(_Part):
    short: tuple[int, ...] = (1, 32708, 2, 12492, 3)
    normal: tuple[int, ...] = (1, 32708, 2, 6382, 3)
    long: tuple[int, ...] = (1, 32708, 2, 4059, 3)


class Templates(_Part):
    caption: CaptionPrompts = CaptionPrompts()
    query: Affixes = Affixes(prefix=(1, 15381, 2), suffix=(3,))
    detect: Affixes = Affixes(prefix=(1, 7235, 476, 2), suffix=(3,))
    point: Affixes = Affixes(prefix=(1, 2581, 2), suffix=(3,))


class TokenizerConfig(_Part):
    """Ids that mean something to the model."""

    bos_id: int = 0
    eos_id: int = 0
    answer_id: int = 3
    thinking_id: int = 4
    coord_id: int = 5
    size_id: int = 6
    start_ground_points_id: int = 7
    end_ground_id: int = 9
    templates: Templates = Templates()


class MoondreamConfig(_Part):
    text: TextConfig = TextConfig()
    vision: VisionConfig = VisionConfig()
    region: RegionConfig = RegionConfig()
    tokenizer: TokenizerConfig = TokenizerConfig()

    @property
    def image_tokens(self) -> int:
        return self.vision.grid**2

    @property
    def prefix_len(self) -> int:
        """BOS and the picture."""
        return 1 + self.image_tokens

    @model_validator(mode="after")
    def _check(self) -> "MoondreamConfig":
        if self.text.prefix_attn != self.prefix_len:
            raise ValueError(
                f"prefix_attn is {self.text.prefix_attn}, but a picture of {self.vision.grid} x {self.vision.grid}"
                f" patches takes {self.prefix_len}"
            )
        if not self.text.dim == self.vision.proj_out_dim == self.region.dim:
            raise ValueError("text.dim, vision.proj_out_dim and region.dim must be the same")
        return self


def load_config(path: Path) -> MoondreamConfig:
    """Of a config.json: either our own keys on top, or under "config" as the published file has them. Raises
    ModelError."""
    try:
        told = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ModelError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise ModelError(f"{path}: no JSON: {error}") from error
    try:
        return MoondreamConfig.model_validate(_ours(told))
    except ValidationError as error:
        problems = (f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
        raise ModelError(f"{path}: {'; '.join(problems)}") from error


def _ours(told: Any) -> Any:
    """The published file says of itself what transformers wants to know, and under "config" what differs."""
    return told["config"] if isinstance(told, dict) and "config" in told else told
