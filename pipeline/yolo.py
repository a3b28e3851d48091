"""What a YOLO file says of itself, and its output tensor turned into boxes.

Layouts as exported by ultralytics 8.4 (a file's own metadata and output shape decide):
raw [n, 4 + classes, anchors] holds cx, cy, w, h in input pixels and class scores after the sigmoid, and needs NMS;
end to end [n, 300, 6] holds x_min, y_min, x_max, y_max in input pixels, score, class, in no particular order.
"""

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.letterbox import STRIDE, Letterbox, undo
from providers.base import Box, Detection

END_TO_END_COLUMNS = 6
Output = NDArray[np.float32]


class DetectorError(Exception):
    """The detector can't be used or has failed; never the same as seeing nothing."""


class DetectorBrokenError(Exception):
    """The detector worked once, and fails now at every frame: only a new process may help."""


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """`labels[i]` names class i. `fixed_input` is (height, width) where the file allows no other; `batch` likewise."""

    labels: tuple[str, ...]
    end_to_end: bool
    fixed_input: tuple[int, int] | None
    fixed_batch: int | None


@dataclass(frozen=True, slots=True)
class Detections:
    """What was seen in one frame, n objects: boxes [n, 4] (x_min, y_min, x_max, y_max in 0..1 of the frame),
    confidences [n] in 0..1, classes [n] as indices of `labels`."""

    boxes: NDArray[np.float32]
    confidences: NDArray[np.float32]
    classes: NDArray[np.int64]
    labels: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.confidences)

    def as_tuple(self) -> tuple[Detection, ...]:
        """One object each, for whoever is not a tracker."""
        return tuple(
            Detection(self.labels[kind], round(float(confidence), 4), Box(*(round(float(side), 4) for side in sides)))
            for kind, confidence, sides in zip(self.classes, self.confidences, self.boxes, strict=True)
        )


def read_info(
    metadata: Mapping[str, str],
    input_shape: Sequence[int | None],
    output_shape: Sequence[int | None],
    labels: Sequence[str] = (),
) -> ModelInfo:
    """Check a model's shapes (None: any size) and metadata. Raises DetectorError: what is wrong, what was expected."""
    if (task := metadata.get("task", "detect")) != "detect":
        raise DetectorError(f"the model's task is {task!r}; a detection model is needed")
    if len(input_shape) != 4 or input_shape[1] not in (3, None):
        raise DetectorError(f"the model's input is {_shape(input_shape)}; expected [batch, 3, height, width]")
    batch, _, height, width = input_shape
    fixed = (height, width) if height is not None and width is not None else None
    if fixed and any(side % STRIDE for side in fixed):
        raise DetectorError(f"the model's input is {_shape(input_shape)}; sides must be multiples of {STRIDE}")
    names = tuple(labels) or _labels(metadata)
    return ModelInfo(names, _is_end_to_end(output_shape, len(names)), fixed, batch)


def _labels(metadata: Mapping[str, str]) -> tuple[str, ...]:
    try:
        names = ast.literal_eval(metadata["names"])
        return tuple(str(names[index]) for index in range(len(names)))
    except KeyError:
        raise DetectorError("the model has no class names in its metadata; list them in detector.labels") from None
    except (ValueError, SyntaxError, TypeError):
        raise DetectorError(f"the model's class names can't be read: {metadata['names'][:80]!r}") from None


def _is_end_to_end(output_shape: Sequence[int | None], classes: int) -> bool:
    if len(output_shape) == 3:
        if output_shape[1] == 4 + classes:
            return False
        if output_shape[2] == END_TO_END_COLUMNS:
            return True
    raise DetectorError(
        f"the model's output is {_shape(output_shape)} with {classes} class names; expected "
        f"[batch, {4 + classes}, anchors] (raw) or [batch, n, {END_TO_END_COLUMNS}] (end to end)"
    )


def _shape(sides: Sequence[int | None]) -> str:
    return "[" + ", ".join("?" if side is None else str(side) for side in sides) + "]"


def decode(output: Output, info: ModelInfo, letterbox: Letterbox, thresholds: Output, iou: float) -> Detections:
    """One frame's output (without the batch axis) as detections in the frame.

    `thresholds` [classes] is the least confidence of each class; above 1 it leaves the class out.
    Raises DetectorError when the numbers are not finite: a broken network must not look like an empty scene.
    """
    boxes, scores, classes = (_end_to_end if info.end_to_end else _raw)(output, thresholds)
    if not (np.isfinite(scores).all() and np.isfinite(boxes).all()):
        raise DetectorError("the network's output is not finite")
    if not info.end_to_end and len(scores) > 1:
        keep = _suppress(boxes, scores, classes, iou)
        boxes, scores, classes = boxes[keep], scores[keep], classes[keep]
    inside = undo(boxes, letterbox)
    solid = (inside[:, 2] > inside[:, 0]) & (inside[:, 3] > inside[:, 1])
    return Detections(inside[solid], scores[solid], classes[solid], info.labels)


def _raw(output: Output, thresholds: Output) -> tuple[Output, Output, NDArray[np.int64]]:
    by_class = output[4:]
    if len(by_class) == 1:
        keep = np.flatnonzero(~(by_class[0] < thresholds[0]))
        classes = np.zeros(len(keep), np.int64)
    else:
        keep = np.flatnonzero(~(by_class.max(axis=0) < thresholds.min()))
        classes = by_class[:, keep].argmax(axis=0)
        enough = ~(by_class[classes, keep] < thresholds[classes])
        keep, classes = keep[enough], classes[enough]
    centre, half = output[:2, keep], output[2:4, keep] / 2
    return np.concatenate([centre - half, centre + half]).T, by_class[classes, keep], classes


def _end_to_end(output: Output, thresholds: Output) -> tuple[Output, Output, NDArray[np.int64]]:
    classes = np.clip(np.nan_to_num(output[:, 5]), 0, len(thresholds) - 1).astype(np.int64)
    keep = ~(output[:, 4] < thresholds[classes]) & ~((output[:, :5] == 0).all(axis=1))
    if (classes[keep] != output[keep, 5]).any():
        raise DetectorError("the network's output names a class that there is not")
    return output[keep, :4], output[keep, 4], classes[keep]


def _suppress(boxes: Output, scores: Output, classes: NDArray[np.int64], iou: float) -> NDArray[np.int64]:
    """Class-aware non-maximum suppression; indices of what stays, best first."""
    corner_and_size = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
    suppress: Any = cv2.dnn.NMSBoxesBatched  # takes arrays as well as the sequences that its types name
    return np.asarray(suppress(corner_and_size, scores, classes.astype(np.int32), 0.0, iou), np.int64)
