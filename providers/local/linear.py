"""Linear layers in the form in which a CPU multiplies them fastest, or in which they take the least memory.

Decoding reads every weight for every token, so that bytes are what counts: `lva bench models` measures each form.
"""

from functools import cache

import numpy as np
import openvino as ov
import torch
from openvino import opset13 as op
from torch import Tensor, nn
from torch.nn import functional

GROUP = 32
"""Weights of 4 bits share a scale and a zero point with so many neighbours of their row."""
MOST_ROWS, FEW_ROWS = 512, 64
"""A packed layer multiplies at most so many at once; below FEW_ROWS their number is rounded up."""


class Packed(nn.Module):
    """Float32, in the order in which oneDNN reads it: up to three times as fast for a few rows, which is what
    decoding is, and up to a tenth slower for many.

    oneDNN makes code for each number of rows that it meets, and megabytes with it: so it meets a few only.
    """

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self._weight = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach())
        self._bias = None if layer.bias is None else layer.bias.detach()

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        parts = [self._multiplied(part) for part in rows.split(pieces(len(rows)))]
        out = parts[0] if len(parts) == 1 else torch.cat(parts)
        return out.view(*x.shape[:-1], -1)

    def _multiplied(self, x: Tensor) -> Tensor:
        missing = rounded_up(len(x)) - len(x)
        x = functional.pad(x, (0, 0, 0, missing)) if missing else x
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._weight, self._bias, "none", [], "")
        return out[: len(out) - missing]


def pieces(rows: int) -> list[int]:
    """Sizes whose sum it is: MOST_ROWS as often as it fits, halves of that down to FEW_ROWS, and a smaller rest."""
    sizes, size = [], MOST_ROWS
    while size >= FEW_ROWS:
        sizes += [size] * (rows // size)
        rows, size = rows % size, size // 2
    return [*sizes, rows] if rows or not sizes else sizes


def rounded_up(rows: int) -> int:
    """To the next of four steps between a power of two and its double; what is up to 8 stays as it is."""
    step = 1 << max((rows - 1).bit_length() - 3, 0)
    return -(-rows // step) * step


def can_pack() -> bool:
    """It is what torch's own compiler calls, and no public name of it."""
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


class Compressed(nn.Module):
    """8 bits a weight with a scale for each row, or 4 bits with a scale and a zero point for each group of a row;
    multiplied by OpenVINO, which unpacks them on their way into the processor. Float32 goes in and comes out.

    Rounding to the nearest: no data is needed for it.
    """

    def __init__(self, layer: nn.Linear, bits: int) -> None:
        super().__init__()
        weight = layer.weight.detach().float().numpy()
        self._rows = len(weight)
        x = op.parameter([-1, weight.shape[1]], ov.Type.f32)
        is_grouped = bits == 4 and weight.shape[1] % GROUP == 0
        unpacked = _of_4_bits(weight) if is_grouped else _of_8_bits(weight)
        y = op.matmul(x, unpacked, False, True)
        if layer.bias is not None:
            y = op.add(y, op.constant(layer.bias.detach().float().numpy()))
        model = ov.Model([op.result(y)], [x])
        self._request = _core().compile_model(model, "CPU", _settings(torch.get_num_threads())).create_infer_request()

    def forward(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, x.shape[-1]).contiguous()
        out = torch.empty(len(flat), self._rows)
        self._request.set_input_tensor(ov.Tensor(flat.numpy(), shared_memory=True))
        self._request.set_output_tensor(ov.Tensor(out.numpy(), shared_memory=True))
        self._request.infer()
        return out.view(*x.shape[:-1], self._rows)


def _of_8_bits(weight: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> ov.Node:
    """The largest of a row is 127."""
    scale = np.maximum(np.abs(weight).max(axis=1, keepdims=True), np.finfo(np.float32).tiny) / 127
    whole = np.round(weight / scale).astype(np.int8)
    return op.multiply(op.convert(op.constant(whole), ov.Type.f32), op.constant(scale))


def _of_4_bits(weight: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> ov.Node:
    """The least of a group is 0 and its largest 15; zero is one of the numbers that are met exactly."""
    rows, cols = weight.shape
    grouped = weight.reshape(rows, cols // GROUP, GROUP)
    least = np.minimum(grouped.min(axis=-1, keepdims=True), 0)
    most = np.maximum(grouped.max(axis=-1, keepdims=True), 0)
    scale = (np.maximum(most - least, np.finfo(np.float16).tiny) / 15).astype(np.float16).astype(np.float32)
    zero = np.clip(np.round(-least / scale), 0, 15)
    whole = np.clip(np.round(grouped / scale) + zero, 0, 15)
    moved = op.subtract(op.convert(_nibbles(whole), ov.Type.f32), op.convert(_nibbles(zero), ov.Type.f32))
    scales = op.convert(op.constant(scale.astype(np.float16)), ov.Type.f32)
    return op.reshape(op.multiply(moved, scales), op.constant(np.array([rows, cols])), False)


def _nibbles(values: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> ov.Node:
    """Two in a byte, the first one in its lower half."""
    whole = values.astype(np.uint8).reshape(-1)
    packed = np.zeros((len(whole) + 1) // 2, np.uint8)
    packed |= whole[0::2]
    packed[: len(whole) // 2] |= whole[1::2] << 4
    tensor = ov.Tensor(ov.Type.u4, ov.Shape(values.shape))
    tensor.data.reshape(-1)[:] = packed
    return op.constant(tensor)


@cache
def _core() -> ov.Core:
    return ov.Core()


def _settings(threads: int) -> dict[str, str | int]:
    """Nothing but the weights is rounded."""
    return {
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
    }
