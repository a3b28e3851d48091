"""What the benchmarks run on: a clip and a detector, and clips made of it."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

FFMPEG_CODEC = cv2.VideoWriter.fourcc(*"mp4v")


@dataclass(frozen=True, slots=True)
class Material:
    """`clip` is a video file, `model` a detector, `size_px` its input's long side, `scratch` a folder to write in."""

    clip: Path
    model: Path
    size_px: int
    scratch: Path


def write_clip(path: Path, source: Path, frames: int, still: bool = False, size: tuple[int, int] | None = None) -> Path:
    """A clip of so many frames of the source, or of its first frame again and again; `size` is (width, height)."""
    capture = cv2.VideoCapture(str(source))
    fps = capture.get(cv2.CAP_PROP_FPS) or 10.0
    pictures = _pictures(capture, 1 if still else frames)
    shape = size or (pictures[0].shape[1], pictures[0].shape[0])
    writer = cv2.VideoWriter(str(path), FFMPEG_CODEC, fps, shape)
    for index in range(frames):
        picture = pictures[index % len(pictures)]
        writer.write(picture if size is None else cv2.resize(picture, size))
    writer.release()
    return path


def _pictures(capture: cv2.VideoCapture, most: int) -> list[np.ndarray]:
    pictures: list[np.ndarray] = []
    while len(pictures) < most and (got := capture.read())[0]:
        pictures.append(np.asarray(got[1]))
    return pictures


def in_a_process(module: str, **arguments: Any) -> dict[str, Any]:
    """Run `python -m module` on these arguments as JSON; its last line is the result."""
    command = [sys.executable, "-m", module, json.dumps(arguments, default=str)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(
            f"{module}: {done.stderr.strip().splitlines()[-1] if done.stderr.strip() else done.returncode}"
        )
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result
