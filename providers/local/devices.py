"""What a model runs on, and in which precision."""

import torch

from providers.local.errors import ModelError

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}


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


def dtype_of(precision: str, device: torch.device) -> torch.dtype:
    """`auto`: what the device is fast at; on a CPU without instructions for bfloat16 that is float32."""
    if precision != "auto":
        return DTYPES[precision]
    if device.type == "cpu":
        has_bf16 = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        return torch.bfloat16 if has_bf16 else torch.float32
    return torch.bfloat16 if device.type != "cuda" or torch.cuda.is_bf16_supported() else torch.float16


def is_out_of_memory(error: RuntimeError) -> bool:
    """The CPU's allocator has no error of its own."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
