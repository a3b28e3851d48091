"""How well a detector finds what is truly there: average precision at an overlap of one half.

    python -m tests.world.score daemon/demo/world-yolo11n.onnx

The pictures come from seeds that no training has seen. The daemon's own code runs and decodes the detector.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.detector import DetectorSettings, Network, network_loader
from pipeline.letterbox import draw, fit, smallest_input
from pipeline.yolo import Detections, decode
from tests.world.canvas import Picture
from tests.world.stills import LABELS, Truth, stills, truth_of

FIRST_UNSEEN_SEED = 900_000
"""Training takes its scenes from seeds below."""
MATCH_IOU = 0.5
LEAST_CONFIDENCE = 0.01
NMS_IOU = 0.7
SURE = 0.5
"""Precision and recall are told at this confidence."""
Detect = Callable[[Picture], Detections]


@dataclass(frozen=True, slots=True)
class Judged:
    """One detection: its confidence, and whether it found something that had to be found."""

    confidence: float
    right: bool


@dataclass(frozen=True, slots=True)
class Score:
    """Of one class; `objects` had to be found. Precision and recall hold at confidence SURE."""

    label: str
    objects: int
    average_precision: float
    precision: float
    recall: float


def detect_with(network: Network, size_px: int, confidence: float = LEAST_CONFIDENCE) -> Detect:
    """Pictures in, all detections of at least some confidence out; `size_px` is the input's long side."""
    thresholds = np.full(len(network.info.labels), confidence, np.float32)

    def detect(picture: Picture) -> Detections:
        height, width = picture.shape[:2]
        box = fit(width, height, *smallest_input(width, height, size_px))
        canvas = np.empty((box.input_height, box.input_width, 3), np.uint8)
        draw(picture, box, canvas)
        return decode(network.infer([canvas])[0], network.info, box, thresholds, NMS_IOU)

    return detect


def unseen(scenes: int) -> Iterator[tuple[Picture, list[Truth]]]:
    """One picture of each scene, and what is in it."""
    for seed in range(FIRST_UNSEEN_SEED, FIRST_UNSEEN_SEED + scenes):
        for frame in stills(seed, 1):
            yield frame.picture, [truth_of(seen) for seen in frame.seen]


def score(detect: Detect, pictures: Iterator[tuple[Picture, list[Truth]]]) -> list[Score]:
    """One for each class."""
    judged: list[list[Judged]] = [[] for _ in LABELS]
    objects = [0] * len(LABELS)
    for picture, truths in pictures:
        found = detect(picture)
        for label in range(len(LABELS)):
            own = [truth for truth in truths if truth.label == label]
            objects[label] += sum(truth.clear for truth in own)
            judged[label] += _judge(found, own, label, picture.shape[1], picture.shape[0])
    return [_summary(LABELS[n], judged[n], objects[n]) for n in range(len(LABELS))]


def _judge(found: Detections, truths: Sequence[Truth], label: int, width: int, height: int) -> list[Judged]:
    """The surest first; each truth is found once. What matches only an unclear truth doesn't count."""
    free = [truth for truth in truths if truth.clear]
    unclear = [truth for truth in truths if not truth.clear]
    size = np.array([width, height, width, height], np.float32)
    judged: list[Judged] = []
    for index in np.flatnonzero(found.classes == label)[np.argsort(-found.confidences[found.classes == label])]:
        box, confidence = found.boxes[index] * size, float(found.confidences[index])
        best = max(free, key=lambda truth: overlap(box, truth.box), default=None)
        if best is not None and overlap(box, best.box) >= MATCH_IOU:
            free.remove(best)
            judged.append(Judged(confidence, True))
        elif all(overlap(box, truth.box) < MATCH_IOU for truth in unclear):
            judged.append(Judged(confidence, False))
    return judged


def overlap(one: npt.NDArray[np.float32], other: Sequence[float]) -> float:
    """Intersection over union of two boxes (x_min, y_min, x_max, y_max)."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    shared = max(0.0, float(width)) * max(0.0, float(height))
    areas = (one[2] - one[0]) * (one[3] - one[1]) + (other[2] - other[0]) * (other[3] - other[1])
    return shared / (float(areas) - shared)


def _summary(label: str, judged: list[Judged], objects: int) -> Score:
    """Area below the curve of precision over recall, with precision as the best at that recall or beyond."""
    ranked = sorted(judged, key=lambda one: -one.confidence)
    right = np.cumsum([one.right for one in ranked], dtype=np.float64)
    precision = right / np.arange(1, len(ranked) + 1)
    best_beyond = np.maximum.accumulate(precision[::-1])[::-1]
    gains = np.diff(right, prepend=0.0) / max(objects, 1)
    sure = [one.right for one in ranked if one.confidence >= SURE]
    return Score(
        label,
        objects,
        float((best_beyond * gains).sum()),
        sum(sure) / max(len(sure), 1),
        sum(sure) / max(objects, 1),
    )


def mean_average_precision(scores: Sequence[Score]) -> float:
    return float(np.mean([one.average_precision for one in scores]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--scenes", type=int, default=500)
    parser.add_argument("--size", type=int, default=416, help="long side of the network's input, px")
    parser.add_argument("--precision", choices=("auto", "f32"), default="auto")
    args = parser.parse_args()
    network = network_loader(DetectorSettings(model=args.model, precision=args.precision))()
    scores = score(detect_with(network, args.size), unseen(args.scenes))
    for one in scores:
        print(
            f"{one.label:10} {one.objects:5} objects  AP50 {one.average_precision:.3f}"
            f"  precision {one.precision:.3f}  recall {one.recall:.3f}"
        )
    print(f"mAP50 {mean_average_precision(scores):.3f} at {args.size} px on {args.scenes} unseen scenes")


if __name__ == "__main__":
    main()
