"""Pictures, clips and folders to look at."""

from pathlib import Path

import cv2
import numpy as np

from pipeline.letterbox import Picture

SIZE = (320, 240)


def scene(index: int, size: tuple[int, int] = SIZE, moves: bool = True) -> Picture:
    """Frame `index` of a scene: a gradient that stays, and a block that moves (or doesn't)."""
    width, height = size
    across = np.linspace(40, 200, width, dtype=np.float32)
    picture = np.repeat(np.repeat(across[None, :, None], height, 0), 3, 2).astype(np.uint8)
    left = (index * 7) % (width - 60) if moves else 20
    picture[height // 3 : height // 3 + 80, left : left + 50] = (30, 60, 230)
    return picture


def plain(colour: tuple[int, int, int], size: tuple[int, int] = SIZE) -> Picture:
    """One colour (BGR), everywhere."""
    return np.full((size[1], size[0], 3), colour, np.uint8)


def black(size: tuple[int, int] = SIZE) -> Picture:
    return np.zeros((size[1], size[0], 3), np.uint8)


def a_clip(path: Path, frames: int, fps: float = 10.0, size: tuple[int, int] = SIZE, moves: bool = True) -> Path:
    """An MP4 of the scene."""
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"mp4v"), fps, size)
    assert writer.isOpened()
    for index in range(frames):
        writer.write(scene(index, size, moves))
    writer.release()
    return path


def a_folder(path: Path, pictures: int) -> Path:
    path.mkdir()
    for index in range(pictures):
        cv2.imwrite(str(path / f"{index:03}.jpg"), scene(index))
    return path
