"""Picture files: bounded before they are decoded, and encoded anew."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from pipeline.pictures import PictureError, load_jpeg, pictures_in


def a_picture(path: Path, height: int, width: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((height, width, 3), 90, np.uint8))
    return path


def size(jpeg: bytes) -> tuple[int, int]:
    decoded = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert decoded is not None
    height, width = decoded.shape[:2]
    return height, width


@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp", "webp"])
def test_a_picture_of_any_kind_becomes_a_jpeg_of_moderate_size(tmp_path: Path, suffix: str) -> None:
    jpeg = load_jpeg(a_picture(tmp_path / f"big.{suffix}", 900, 1600))
    assert jpeg.startswith(b"\xff\xd8\xff")
    assert size(jpeg) == (720, 1280)


def test_a_small_picture_keeps_its_size(tmp_path: Path) -> None:
    assert size(load_jpeg(a_picture(tmp_path / "small.png", 30, 40))) == (30, 40)


@pytest.mark.parametrize("content", [b"", b"hello", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n" + b"\x00" * 50])
def test_what_is_no_picture_is_said(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "x.jpg"
    file.write_bytes(content)
    with pytest.raises(PictureError):
        load_jpeg(file)


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(PictureError, match="No such file"):
        load_jpeg(tmp_path / "gone.jpg")


def test_folders_are_searched_to_the_bottom_and_each_picture_comes_once(tmp_path: Path) -> None:
    deep = a_picture(tmp_path / "one" / "two" / "deep.PNG", 4, 4)
    top = a_picture(tmp_path / "top.jpg", 4, 4)
    (tmp_path / "notes.txt").write_text("no picture")
    assert pictures_in((top, tmp_path)) == [top, deep]
