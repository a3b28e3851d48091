"""Picture files as what a provider is asked with: bounded, decoded once, and encoded anew as a JPEG of
moderate size.

Encoding anew proves that the picture decodes, and leaves its metadata behind.
"""

import os
from pathlib import Path

os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", "50000000")  # read once, when cv2 is imported

import cv2
import numpy as np

SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".bmp", ".webp"))
LONG_SIDE_PX = 1280
JPEG_QUALITY = 90
MAX_FILE_BYTES = 100 << 20
PIXELS_VARIABLE = "OPENCV_IO_MAX_IMAGE_PIXELS"


class PictureError(Exception):
    """A file that can't be asked about; the message says why."""


def pictures_in(paths: tuple[Path, ...]) -> list[Path]:
    """The files that are named, and those in the folders that are named, each once. A folder's come
    sorted."""
    found: dict[Path, None] = {}
    for path in paths:
        found.update(dict.fromkeys(_in_folder(path) if path.is_dir() else [path]))
    return list(found)


def load_jpeg(path: Path) -> bytes:
    """A JPEG of the picture, upright, its long side at most LONG_SIDE_PX. Blocks. Raises PictureError."""
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise PictureError(f"larger than {MAX_FILE_BYTES >> 20} MiB")
        content = path.read_bytes()
    except OSError as error:
        raise PictureError(error.strerror or str(error)) from error
    return _encoded(_decoded(content))


def _in_folder(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())


def _decoded(content: bytes) -> np.ndarray:
    if not content:
        raise PictureError("an empty file")
    try:
        picture = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:
        if "MAX_IMAGE_PIXELS" in error.err:  # its header says so; nothing was decoded
            limit = os.environ[PIXELS_VARIABLE]
            raise PictureError(f"more than {limit} pixels, which {PIXELS_VARIABLE} allows") from error
        raise PictureError("a broken picture") from error
    if picture is None:
        raise PictureError("not a picture that can be decoded")
    return picture


def _encoded(picture: np.ndarray) -> bytes:
    height, width = picture.shape[:2]
    scale = LONG_SIDE_PX / max(height, width)
    if scale < 1:
        size = max(1, round(width * scale)), max(1, round(height * scale))
        picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    done, jpeg = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    if not done:
        raise PictureError("could not be encoded as JPEG")
    return jpeg.tobytes()
