import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.letterbox import PAD_GREY, STRIDE, draw, fit, smallest_input, undo

SIDES = st.integers(16, 4000)


@pytest.mark.parametrize(
    ("width", "height", "size_px", "expected"),
    [
        (1920, 1080, 640, (384, 640)),
        (480, 360, 416, (320, 416)),
        (1080, 1920, 640, (640, 384)),
        (640, 640, 640, (640, 640)),
    ],
)
def test_the_input_is_the_smallest_that_holds_the_picture(
    width: int, height: int, size_px: int, expected: tuple[int, int]
) -> None:
    assert smallest_input(width, height, size_px) == expected


@given(SIDES, SIDES, st.sampled_from([320, 416, 640]))
def test_a_box_comes_back_to_where_it_was_in_the_picture(width: int, height: int, size_px: int) -> None:
    box = fit(width, height, *smallest_input(width, height, size_px))
    shares = np.array([[0.1, 0.2, 0.7, 0.9]], np.float32)
    drawn = np.array([box.drawn_width, box.drawn_height] * 2, np.float32)
    there = shares * drawn + np.array([box.left, box.top] * 2, np.float32)
    assert np.allclose(undo(there, box), shares, atol=1e-4)


@given(SIDES, SIDES)
def test_the_picture_lies_inside_the_input_on_its_grey_border(width: int, height: int) -> None:
    input_height, input_width = smallest_input(width, height, 320)
    box = fit(width, height, input_height, input_width)
    assert box.left >= 0
    assert box.top >= 0
    assert box.left + box.drawn_width <= input_width
    assert box.top + box.drawn_height <= input_height
    assert input_height % STRIDE == input_width % STRIDE == 0


def test_drawing_fills_the_border_with_grey_and_the_middle_with_the_picture() -> None:
    box = fit(100, 50, 64, 64)
    out = np.zeros((64, 64, 3), np.uint8)
    draw(np.full((50, 100, 3), 255, np.uint8), box, out)
    assert (box.drawn_width, box.drawn_height, box.left, box.top) == (64, 32, 0, 16)
    assert (out[[*range(16), *range(48, 64)]] == PAD_GREY).all()
    assert (out[16:48] == 255).all()


def test_boxes_outside_the_picture_are_clipped_to_it() -> None:
    box = fit(100, 50, 64, 64)
    assert undo(np.array([[-50, -50, 500, 500]], np.float32), box).tolist() == [[0, 0, 1, 1]]
