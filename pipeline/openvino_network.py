"""An .onnx file run by OpenVINO: CPU, Intel GPU and NPU."""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
from openvino import Layout, Type
from openvino.preprocess import ColorFormat, PrePostProcessor

from pipeline.letterbox import Picture
from pipeline.yolo import DetectorError, ModelInfo, Output, read_info


class OpenVINONetwork:
    """Pictures go in as they are (uint8, BGR, height × width × 3): scaling and channel order are part of the graph.

    A CPU gives most with one single-threaded stream per core (measured: 208 frames/s against 174 with both cores on
    one frame and 143 with dynamic shapes), so each input shape is compiled for itself, once, when first seen.
    """

    def __init__(self, path: Path, device: str, streams: int, labels: Sequence[str], exact: bool) -> None:
        """With `exact`, float32 throughout; else what the device is fastest at (bfloat16 on a CPU with AMX)."""
        self._core = ov.Core()
        self._exact = exact
        self._device = device
        self._compiled: dict[tuple[int, ...], Any] = {}
        self._lock = threading.Lock()
        self._threads = threading.local()
        self.on_cpu = device.upper() == "CPU"
        self.streams = streams if self.on_cpu else 1
        try:
            model = self._core.read_model(path)
            self.info = _info(model, labels)
            self._model = _with_pictures_as_input(model)
        except RuntimeError as error:
            raise DetectorError(f"{path}: OpenVINO can't read it: {_first_line(error)}") from error
        self.max_batch = self.info.fixed_batch or (1 if self.on_cpu else 16)

    def infer(self, batch: Sequence[Picture]) -> list[Output]:
        """One output per picture; all of one shape. Thread-safe."""
        pictures = np.stack(batch) if len(batch) > 1 else batch[0][None]
        if self.info.fixed_batch and len(batch) < self.info.fixed_batch:
            pictures = np.concatenate(
                [pictures, np.zeros((self.info.fixed_batch - len(batch), *pictures.shape[1:]), np.uint8)]
            )
        request = self._request(pictures.shape)
        request.infer({0: pictures}, share_inputs=True)
        return list(request.get_output_tensor(0).data[: len(batch)])

    def forget(self) -> None:
        """Let go of what was compiled so far: each shape takes about 40 MB."""
        self._threads = threading.local()
        self._compiled.clear()

    def _request(self, shape: tuple[int, ...]) -> Any:
        requests: dict[tuple[int, ...], Any] = self._threads.__dict__.setdefault("requests", {})
        if shape not in requests:
            with self._lock:
                if shape not in self._compiled:
                    self._compiled[shape] = self._compile(shape)
            requests[shape] = self._compiled[shape].create_infer_request()
        return requests[shape]

    def _compile(self, shape: tuple[int, ...]) -> Any:
        model = self._model.clone()
        if model.inputs[0].partial_shape.is_dynamic:
            model.reshape({model.inputs[0]: shape})
        hints: dict[str, Any] = {"PERFORMANCE_HINT": "THROUGHPUT"}
        if self.on_cpu:
            hints |= {"NUM_STREAMS": str(self.streams), "INFERENCE_NUM_THREADS": self.streams}
        if self._exact:
            hints["INFERENCE_PRECISION_HINT"] = "f32"
        try:
            return self._core.compile_model(model, self._device, hints)
        except RuntimeError as error:
            has = ", ".join(self._core.available_devices).lower()
            raise DetectorError(
                f"detector.device: {self._device.lower()}: {_first_line(error)}; OpenVINO has {has}"
            ) from error


def _info(model: Any, labels: Sequence[str]) -> ModelInfo:
    if len(model.inputs) != 1:
        raise DetectorError(f"the model has {len(model.inputs)} inputs; expected one picture")
    rt_info = model.get_rt_info()
    stored = rt_info["framework"] if "framework" in rt_info else {}  # noqa: SIM401 - an OVAny map has no get()
    metadata = {key: stored[key].astype(str) for key in stored}
    return read_info(metadata, _sides(model.inputs[0]), _sides(model.outputs[0]), labels)


def _sides(port: Any) -> list[int | None]:
    return [side.get_length() if side.is_static else None for side in port.partial_shape]


def _with_pictures_as_input(model: Any) -> Any:
    steps = PrePostProcessor(model)
    steps.input().tensor().set_element_type(Type.u8).set_layout(Layout("NHWC")).set_color_format(ColorFormat.BGR)
    steps.input().preprocess().convert_element_type(Type.f32).convert_color(ColorFormat.RGB).scale([255.0] * 3)
    steps.input().model().set_layout(Layout("NCHW"))
    return steps.build()


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
