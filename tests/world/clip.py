"""A scene as a clip: an MP4 and, beside it, the truth as JSON lines.

    python -m tests.world.clip --yard daemon/demo/yard.mp4
    python -m tests.world.clip --seed 7 --seconds 20 some.mp4

The first line of the truth describes the clip and its actors, one follows per frame, then one per event.
"""

import argparse
import json
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np

from tests.world.actors import Actor, Look
from tests.world.camera import HEIGHT_PX, WIDTH_PX
from tests.world.canvas import Picture
from tests.world.events import Moment, true_events
from tests.world.render import Frame, Renderer
from tests.world.scene import Scene, frame_times, random_scene
from tests.world.yard import FPS, yard_scene

RATE_FACTOR = 25
"""x264's constant quality: lower is better and larger."""


class Writer(Protocol):
    def write(self, picture: Picture, /) -> object: ...


def write_clip(scene: Scene, path: Path, fps: float) -> None:
    """Renders every frame once; the truth stands in the same folder as NAME.truth.jsonl."""
    renderer = Renderer(scene)
    frames: list[Frame] = []
    with open_writer(path, fps) as writer:
        for at_s in frame_times(scene.duration_s, fps):
            frame = renderer.frame(at_s)
            writer.write(frame.picture)
            frames.append(Frame(at_s, np.empty((0, 0, 3), np.uint8), frame.seen, frame.light))
    truth_path(path).write_text(
        "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in truth_lines(scene, frames, fps))
    )


def truth_path(clip: Path) -> Path:
    return clip.with_suffix(".truth.jsonl")


def truth_lines(scene: Scene, frames: list[Frame], fps: float) -> Iterable[dict[str, Any]]:
    """Boxes are x_min, y_min, x_max, y_max in px, the max edges lie outside; `visible` is a share of 1."""
    yield {
        "kind": "clip",
        "seed": scene.seed,
        "place": scene.place.kind,
        "width": WIDTH_PX,
        "height": HEIGHT_PX,
        "fps": fps,
        "frames": len(frames),
        "actors": [_actor_line(actor) for actor in scene.actors],
    }
    for number, frame in enumerate(frames):
        yield _frame_line(number, frame)
    moments = [Moment(frame.at_s, scene.at(frame.at_s), frame.seen) for frame in frames]
    for event in true_events(moments):
        yield {
            "kind": "event",
            "event": event.kind,
            "start_s": round(event.start_s, 2),
            "end_s": round(event.end_s, 2),
            "ids": event.ids,
        }


def _actor_line(actor: Actor) -> dict[str, Any]:
    plain = asdict(Look())
    look = {key: value for key, value in asdict(actor.look).items() if value != plain[key] or key == "top"}
    owner = {} if actor.owner is None else {"owner": actor.owner}
    return {"id": actor.id, "label": actor.label, "height_m": round(actor.height_m, 2), **look, **owner}


def _frame_line(number: int, frame: Frame) -> dict[str, Any]:
    objects = [
        {
            "id": seen.state.actor.id,
            "label": seen.state.actor.label,
            "box": seen.box,
            "visible": round(seen.visible, 3),
            "activity": seen.state.activity,
        }
        for seen in frame.seen
    ]
    light = round(frame.light.level, 3)
    return {
        "kind": "frame",
        "frame": number,
        "at_s": round(frame.at_s, 3),
        "light": light,
        "objects": objects,
    }


@contextmanager
def open_writer(path: Path, fps: float) -> Iterator[Writer]:
    """H.264 where ffmpeg is installed, else OpenCV's own MPEG-4."""
    if shutil.which("ffmpeg"):
        with _FfmpegWriter(path, fps) as encoder:
            yield encoder
        return
    plain = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), fps, (WIDTH_PX, HEIGHT_PX))
    yield plain
    plain.release()


class _FfmpegWriter:
    """Pipes raw pictures to ffmpeg. One thread and no dates, so that the same pictures give the same file."""

    def __init__(self, path: Path, fps: float) -> None:
        source = [
            "-f",
            "rawvideo",
            "-pix_fmt",
            "bgr24",
            "-s",
            f"{WIDTH_PX}x{HEIGHT_PX}",
            "-r",
            str(fps),
            "-i",
            "-",
        ]
        coder = [
            "-c:v",
            "libx264",
            "-preset",
            "slow",
            "-crf",
            str(RATE_FACTOR),
            "-pix_fmt",
            "yuv420p",
            "-g",
            "60",
        ]
        exact = ["-threads", "1", "-fflags", "+bitexact", "-flags:v", "+bitexact", "-movflags", "+faststart"]
        self._command = ["ffmpeg", "-loglevel", "error", "-y", *source, *coder, *exact, str(path)]

    def __enter__(self) -> "_FfmpegWriter":
        self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE)
        return self

    def write(self, picture: Picture) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(picture.tobytes())

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        if status := self._process.wait():
            raise RuntimeError(f"ffmpeg ended with status {status}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--yard", action="store_true", help="the story of the demo instead of a random scene")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--fps", type=float, default=FPS)
    args = parser.parse_args()
    write_clip(yard_scene() if args.yard else random_scene(args.seed, args.seconds), args.out, args.fps)


if __name__ == "__main__":
    main()
