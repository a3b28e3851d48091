"""A .pt, .engine or other file that ultralytics can load; an extra, which brings torch into the process."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from pipeline.letterbox import Picture
from pipeline.yolo import DetectorError, ModelInfo, Output

_QUIET = {
    "YOLO_OFFLINE": "1",
    "YOLO_AUTOINSTALL": "false",
    "YOLO_VERBOSE": "false",
    "ULTRALYTICS_SKIP_REQUIREMENTS_CHECKS": "1",
    "ULTRALYTICS_SAFE_LOAD": "1",
}
"""Nothing is downloaded, installed or reported at run time. Read at import, so set before it."""


def be_quiet() -> None:
    """Call before the first import of ultralytics."""
    for key, value in _QUIET.items():
        os.environ.setdefault(key, value)


class UltralyticsNetwork:
    """Not thread-safe by its authors' word, so it is loaded in, and only ever used by, the detector's one thread.

    The boxes come back through ultralytics' own NMS, as rows of the end-to-end layout.
    """

    streams = 1

    def __init__(self, path: Path, device: str, iou: float, least_confidence: float) -> None:
        be_quiet()
        try:
            import torch
            from ultralytics import YOLO, settings
        except ImportError as error:
            raise DetectorError(
                f"{path}: needs ultralytics: pip install 'live-vision-analyzer[models]' ({error})"
            ) from error
        settings.update({"sync": False})
        self._torch: Any = torch
        self._options = {"device": device, "iou": iou, "conf": least_confidence, "verbose": False}
        try:
            self._model: Any = YOLO(str(path), task="detect")
            names = self._model.names  # some formats are only looked at here
        except Exception as error:  # it raises whatever it stumbles over: each means that it can't load this
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise DetectorError(f"detector.model: {path}: ultralytics can't load it: {reason}") from error
        self.info = ModelInfo(tuple(str(names[index]) for index in range(len(names))), True, None, None)
        self.max_batch = 1 if device == "cpu" else 16

    def forget(self) -> None:
        """Nothing is kept for a shape."""

    def infer(self, batch: Sequence[Picture]) -> list[Output]:
        tensor = self._torch.from_numpy(cv2.dnn.blobFromImages(list(batch), 1 / 255, swapRB=True))
        results = self._model.predict(tensor, **self._options)
        return [np.ascontiguousarray(result.boxes.data.cpu().numpy(), np.float32) for result in results]
