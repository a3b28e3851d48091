"""Many tableaux as the small model sees them, drawn once: pictures in one file, their truth in another.

python -m tests.world.pool FOLDER --first-seed 2000000 --places 8000
"""

import argparse
import json
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from io import BytesIO
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from tests.world.lessons import Truth, truth_from_json, truth_of
from tests.world.stills import jpeg
from tests.world.tableaux import tableaux

SIDE_PX = 168
"""Of the model's input."""
PICTURES, TRUTHS = "pictures.u8", "truth.jsonl"

Sample = tuple[bytes, Truth]


def samples(seed: int, side_px: int) -> list[Sample]:
    """Of one place: RGB pixels, side × side × 3, and what is on them. Each has gone through a JPEG."""
    qualities = iter(np.random.default_rng([seed, 8]).integers(45, 96, 100))
    return [
        (small(jpeg(tableau.frame.picture, int(next(qualities))), side_px).tobytes(), truth_of(tableau))
        for tableau in tableaux(seed)
    ]


def small(encoded: bytes, side_px: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """As the engine does it."""
    picture = Image.open(BytesIO(encoded)).convert("RGB")
    return np.asarray(picture.resize((side_px, side_px), Image.Resampling.LANCZOS))


def write_pool(folder: Path, first_seed: int, places: int, side_px: int) -> int:
    """Returns how many. A pool that was cut short holds what its truth file tells of."""
    folder.mkdir(parents=True, exist_ok=True)
    seeds = range(first_seed, first_seed + places)
    count = 0
    with (
        (folder / PICTURES).open("wb") as pictures,
        (folder / TRUTHS).open("w") as truths,
        ProcessPoolExecutor(mp_context=get_context("spawn"), initializer=cv2.setNumThreads, initargs=(1,)) as pool,
    ):
        for drawn in pool.map(samples, seeds, repeat(side_px), chunksize=8):
            for pixels, truth in drawn:
                pictures.write(pixels)
                truths.write(json.dumps(truth.as_json()) + "\n")
                count += 1
    return count


def read_pool(folder: Path, side_px: int) -> tuple[np.ndarray[tuple[int, ...], np.dtype[np.uint8]], list[Truth]]:
    """[n, side, side, 3] mapped, and n truths."""
    truths = [truth_from_json(json.loads(line)) for line in _lines(folder / TRUTHS)]
    count = min(len(truths), os.path.getsize(folder / PICTURES) // (side_px * side_px * 3))
    pictures = np.memmap(folder / PICTURES, np.uint8, "r", shape=(count, side_px, side_px, 3))
    return pictures, truths[:count]


def _lines(file: Path) -> Iterator[str]:
    """Whole ones."""
    return (line for line in file.read_text("utf-8").splitlines(keepends=True) if line.endswith("\n"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--first-seed", type=int, default=2_000_000)
    parser.add_argument("--places", type=int, default=8000)
    parser.add_argument("--side-px", type=int, default=SIDE_PX)
    args = parser.parse_args()
    print(write_pool(args.folder, args.first_seed, args.places, args.side_px), "pictures")


if __name__ == "__main__":
    main()
