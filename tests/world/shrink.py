"""Stores an .onnx file's weights in half precision; the graph still computes in single precision."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

LEAST_VALUES = 64
"""Smaller constants stay as they are."""


def shrink(full: Path, out: Path, rows: int) -> None:
    """Each large float32 weight becomes float16 and a Cast to float32, which runtimes fold away on loading.

    `rows` is the output's second dimension (4 + classes), which an export with free sizes forgets to state.
    """
    model = onnx.load(str(full))
    casts: list[Any] = []
    for weight in model.graph.initializer:
        if weight.data_type == TensorProto.FLOAT and np.prod(weight.dims) >= LEAST_VALUES:
            casts.append(_halve(weight))
    nodes = casts + list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    del model.graph.value_info[:]
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = rows
    onnx.checker.check_model(model)
    onnx.save(model, str(out))


def _halve(weight: Any) -> Any:
    """Changes the weight in place and returns the node that gives it under its old name."""
    name = weight.name
    half = numpy_helper.from_array(numpy_helper.to_array(weight).astype(np.float16), f"{name}.half")
    weight.CopyFrom(half)
    return helper.make_node("Cast", [f"{name}.half"], [name], name=f"{name}.cast", to=TensorProto.FLOAT)
