"""Single pictures of many scenes, as JPEG with their truth: what a model is taught with.

python -m tests.world.stills FOLDER --first-seed 1000 --scenes 3000 --each 3
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from tests.world.canvas import Picture
from tests.world.render import Frame, Renderer, Seen
from tests.world.scene import random_scene

LABELS = ("person", "car", "backpack")
"""Class numbers of the detector; the names are COCO's."""
TRUTH = "truth.jsonl"
_SCENE_S = 20.0


@dataclass(frozen=True, slots=True)
class Truth:
    """One object of a picture: class number, box in px, and the share of it that can be seen."""

    label: int
    box: tuple[int, int, int, int]
    visible: float

    @property
    def clear(self) -> bool:
        """A detector has to find it. What isn't clear is neither asked for nor held against a detector."""
        return self.visible >= 0.4 and self.box[3] - self.box[1] >= 16 and self.box[2] - self.box[0] >= 7

    @property
    def taught(self) -> bool:
        """A little below `clear`, so that the limit itself is learned."""
        return self.visible >= 0.3 and self.box[3] - self.box[1] >= 12 and self.box[2] - self.box[0] >= 5


def truth_of(seen: Seen) -> Truth:
    return Truth(LABELS.index(seen.state.actor.label), seen.box, round(seen.visible, 3))


def stills(seed: int, each: int) -> Iterator[Frame]:
    """Some frames of one scene, at times that follow from the seed."""
    renderer = Renderer(random_scene(seed, _SCENE_S))
    times = np.random.default_rng([seed, 4]).uniform(2.0, _SCENE_S - 2.0, each)
    for at_s in times:
        yield renderer.frame(float(at_s))


def jpeg(picture: Picture, quality: int) -> bytes:
    done, encoded = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])
    assert done
    return encoded.tobytes()


def write_stills(folder: Path, first_seed: int, scenes: int, each: int) -> None:
    """JPEGs of varying quality, and a line of truth for each: file, then [label, box, visible] per object."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / TRUTH).open("w") as lines:
        for seed in range(first_seed, first_seed + scenes):
            qualities = np.random.default_rng([seed, 5]).integers(45, 96, each)
            for number, frame in enumerate(stills(seed, each)):
                name = f"{seed:06d}-{number}.jpg"
                (folder / name).write_bytes(jpeg(frame.picture, int(qualities[number])))
                objects = [[truth.label, truth.box, truth.visible] for truth in map(truth_of, frame.seen)]
                lines.write(json.dumps({"file": name, "objects": objects}) + "\n")


def read_truth(folder: Path) -> list[tuple[str, tuple[Truth, ...]]]:
    """File names and what they show."""
    rows = [json.loads(line) for line in (folder / TRUTH).read_text().splitlines()]
    return [(row["file"], tuple(Truth(n, tuple(box), seen) for n, box, seen in row["objects"])) for row in rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--first-seed", type=int, default=1000)
    parser.add_argument("--scenes", type=int, default=3000)
    parser.add_argument("--each", type=int, default=3, help="pictures of each scene")
    args = parser.parse_args()
    write_stills(args.folder, args.first_seed, args.scenes, args.each)


if __name__ == "__main__":
    main()
