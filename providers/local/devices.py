"""What a model runs on, and in which precision."""

from dataclasses import dataclass
from typing import Literal

import torch

from providers.local.errors import ModelError

_DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}
_BITS: dict[str, Literal[4, 8]] = {"int8": 8, "int4": 4}


@dataclass(frozen=True, slots=True)
class Precision:
    """What is computed in; and of how many bits the weights are, where that is another number."""

    dtype: torch.dtype
    bits: Literal[0, 4, 8] = 0

    def __str__(self) -> str:
        return f"int{self.bits}" if self.bits else str(self.dtype).removeprefix("torch.")


def device_of(name: str) -> torch.device:
    """Raises ModelError where it can't be used."""
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ModelError(f"device {name!r} can't be used: {error}") from error
    return device


def precision_of(name: str, device: torch.device) -> Precision:
    """`auto`: what the device is fast at; on a CPU without instructions for bfloat16 that is float32. Raises
    ModelError for what the device can't do."""
    if bits := _BITS.get(name):
        if device.type != "cpu":
            raise ModelError(f"precision {name!r} is for CPUs; on {device.type} take bf16, f16 or auto")
        return Precision(torch.float32, bits)
    return Precision(_DTYPES[name] if name != "auto" else _fast_dtype(device))


def _fast_dtype(device: torch.device) -> torch.dtype:
    if device.type == "cpu":
        has_bf16 = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        return torch.bfloat16 if has_bf16 else torch.float32
    return torch.bfloat16 if device.type != "cuda" or torch.cuda.is_bf16_supported() else torch.float16


def is_out_of_memory(error: RuntimeError) -> bool:
    """The CPU's allocator has no error of its own."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
