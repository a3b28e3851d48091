"""The model server's configuration: `[model]` and `[server]` of its file."""

from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationInfo, field_validator

from providers.section import Section


class ModelSettings(Section):
    engine: Literal["moondream2", "llava"] = Field("moondream2", description="Who answers")
    folder: Path = Field(description="With model.safetensors, config.json and tokenizer.json")
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1 or mps; auto takes a GPU where there is one")
    precision: Literal["auto", "f32", "bf16", "f16", "int8", "int4"] = Field(
        "auto",
        description="auto: bf16 where the device is fast at it, else f32; int8, int4: smaller, for CPUs",
    )
    threads: int = Field(0, ge=0, le=1024, description="Of a CPU; 0: as many as there are cores")
    max_side_px: int = Field(
        0, ge=0, description="Pictures are made smaller than this first; 378 costs a ninth, and loses what is small"
    )
    max_megapixels: float = Field(50, gt=0, le=1000, description="Larger pictures are refused unread")
    rows: int = Field(32, ge=1, le=1024, description="Questions in one batch at most")
    waiting: int = Field(256, ge=1, le=100_000, description="Questions that may wait; beyond, callers hear 503")
    pictures_mb: int = Field(2048, ge=1, description="Memory for pictures that have been seen, to be asked about again")
    rows_mb: int = Field(1024, ge=1, description="Memory for the questions of a batch")

    @field_validator("folder")
    @classmethod
    def _beside_the_file(cls, folder: Path, info: ValidationInfo) -> Path:
        base: Path | None = (info.context or {}).get("base_dir")
        return (base / folder) if base else folder


class ServerSettings(Section):
    host: str = Field("127.0.0.1", min_length=1, description="Where it listens; beyond loopback, set token_file")
    port: int = Field(2021, ge=1, le=65535, description="And on which port")
    unix_socket: Path | None = Field(None, description="Listen on this instead")
    token_file: Path | None = Field(None, description="A file with a password that callers must send as bearer token")
    max_body_mb: int = Field(16, ge=1, le=1024, description="Larger requests are refused")
    timeout_s: float = Field(120.0, gt=0, le=3600, description="A request that takes longer is given up, and told so")


class LocalConfig(Section):
    model: ModelSettings
    server: ServerSettings = ServerSettings()
