"""An .onnx file run by ONNX Runtime: CUDA, TensorRT, and a second opinion on the CPU."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import onnxruntime as ort

from pipeline.letterbox import Picture
from pipeline.yolo import DetectorError, Output, read_info

_EXECUTION_PROVIDERS = {
    "cpu": ["CPUExecutionProvider"],
    "cuda": ["CUDAExecutionProvider", "CPUExecutionProvider"],
    "tensorrt": ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"],
}


class OnnxRuntimeNetwork:
    """Several threads share one session; on a CPU each runs its frame on its own core."""

    def __init__(self, path: Path, device: str, streams: int, labels: Sequence[str]) -> None:
        self.on_cpu = device.lower() == "cpu"
        self.streams = streams if self.on_cpu else 1
        self._session = self._open(path, device.lower())
        source, sink = self._session.get_inputs(), self._session.get_outputs()
        if len(source) != 1:
            raise DetectorError(f"{path}: the model has {len(source)} inputs; expected one picture")
        metadata = self._session.get_modelmeta().custom_metadata_map
        self.info = read_info(metadata, _sides(source[0].shape), _sides(sink[0].shape), labels)
        self.max_batch = self.info.fixed_batch or (1 if self.on_cpu else 16)
        self._input = source[0].name

    @staticmethod
    def _open(path: Path, device: str) -> ort.InferenceSession:
        if device not in _EXECUTION_PROVIDERS:
            raise DetectorError(
                f"detector.device: {device!r} with onnxruntime; expected one of {', '.join(_EXECUTION_PROVIDERS)}"
            )
        wanted = _EXECUTION_PROVIDERS[device]
        if wanted[0] not in ort.get_available_providers():
            raise DetectorError(
                f"detector.device: this onnxruntime has no {wanted[0]}; it has {ort.get_available_providers()}"
            )
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        try:
            return ort.InferenceSession(str(path), options, providers=wanted)
        except Exception as error:  # its errors share no base class: each means that it can't run this file
            raise DetectorError(f"{path}: ONNX Runtime can't read it: {str(error).splitlines()[0]}") from error

    def forget(self) -> None:
        """Nothing is kept for a shape."""

    def infer(self, batch: Sequence[Picture]) -> list[Output]:
        """One output per picture; all of one shape. Thread-safe."""
        tensor = cv2.dnn.blobFromImages(list(batch), 1 / 255, swapRB=True)
        if self.info.fixed_batch and len(batch) < self.info.fixed_batch:
            tensor = np.concatenate(
                [tensor, np.zeros((self.info.fixed_batch - len(batch), *tensor.shape[1:]), np.float32)]
            )
        return list(self._session.run(None, {self._input: tensor})[0][: len(batch)])


def _sides(shape: Sequence[object]) -> list[int | None]:
    return [side if isinstance(side, int) else None for side in shape]
