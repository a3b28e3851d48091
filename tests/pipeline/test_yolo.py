import numpy as np
import pytest

from pipeline.letterbox import fit
from pipeline.yolo import DetectorError, ModelInfo, decode, read_info

META = {"names": "{0: 'person', 1: 'car'}", "task": "detect"}
RAW = ModelInfo(("person", "car"), False, None, None)
END_TO_END = ModelInfo(("person", "car"), True, None, None)
SQUARE = fit(640, 640, 640, 640)
HALF = np.array([0.5, 0.5], np.float32)


def test_the_output_shape_decides_the_layout() -> None:
    assert not read_info(META, [1, 3, 640, 640], [1, 6, 8400]).end_to_end
    assert read_info(META, [1, 3, 640, 640], [1, 300, 6]).end_to_end
    assert not read_info(META, [None, 3, None, None], [None, 6, None]).end_to_end


def test_a_fixed_input_and_batch_are_told() -> None:
    info = read_info(META, [4, 3, 384, 640], [4, 6, 5040])
    assert (info.fixed_input, info.fixed_batch) == ((384, 640), 4)


@pytest.mark.parametrize(
    ("metadata", "input_shape", "output_shape", "message"),
    [
        ({**META, "task": "segment"}, [1, 3, 640, 640], [1, 6, 8400], "task is 'segment'"),
        (META, [1, 640, 640], [1, 6, 8400], r"expected \[batch, 3, height, width\]"),
        (META, [1, 3, 630, 640], [1, 6, 8400], "multiples of 32"),
        (META, [1, 3, 640, 640], [1, 85, 8400], r"\[1, 85, 8400\] with 2 class names"),
        ({"task": "detect"}, [1, 3, 640, 640], [1, 6, 8400], "detector.labels"),
        ({"names": "__import__('os')"}, [1, 3, 640, 640], [1, 6, 8400], "can't be read"),
    ],
)
def test_a_model_that_is_no_yolo_detector_is_refused_with_the_reason(
    metadata: dict[str, str], input_shape: list[int], output_shape: list[int], message: str
) -> None:
    with pytest.raises(DetectorError, match=message):
        read_info(metadata, input_shape, output_shape)


def test_labels_from_the_configuration_stand_in_for_missing_ones() -> None:
    assert read_info({}, [1, 3, 64, 64], [1, 5, 84], ["goat"]).labels == ("goat",)


def raw_output(*columns: tuple[float, ...]) -> np.ndarray:
    return np.array(columns, np.float32).T


def test_raw_boxes_are_centres_and_sizes_and_overlapping_ones_are_one_object() -> None:
    output = raw_output((320, 320, 64, 128, 0.9, 0.1), (322, 321, 64, 128, 0.8, 0.1), (100, 100, 20, 20, 0.2, 0.1))
    found = decode(output, RAW, SQUARE, HALF, 0.7)
    assert found.boxes.tolist() == pytest.approx(np.array([[0.45, 0.4, 0.55, 0.6]]))
    assert (found.confidences.tolist(), found.classes.tolist()) == (pytest.approx([0.9]), [0])


def test_overlapping_boxes_of_different_classes_are_two_objects() -> None:
    output = raw_output((320, 320, 64, 64, 0.9, 0.0), (320, 320, 64, 64, 0.0, 0.8))
    assert sorted(decode(output, RAW, SQUARE, HALF, 0.7).classes.tolist()) == [0, 1]


def test_each_class_has_its_own_threshold_and_one_above_1_leaves_it_out() -> None:
    output = raw_output((100, 100, 20, 20, 0.6, 0.0), (300, 300, 20, 20, 0.0, 0.9))
    assert decode(output, RAW, SQUARE, np.array([0.5, 2.0], np.float32), 0.7).classes.tolist() == [0]
    assert decode(output, RAW, SQUARE, np.array([0.7, 0.8], np.float32), 0.7).classes.tolist() == [1]


def test_end_to_end_rows_are_corners_in_any_order_and_empty_rows_are_nothing() -> None:
    output = np.array([[0, 0, 0, 0, 0, 0], [64, 64, 128, 192, 0.7, 1], [0, 0, 320, 320, 0.4, 0]], np.float32)
    found = decode(output, END_TO_END, SQUARE, HALF, 0.7)
    assert found.boxes.tolist() == pytest.approx(np.array([[0.1, 0.1, 0.2, 0.3]]))
    assert found.classes.tolist() == [1]


@pytest.mark.parametrize("poison", [np.nan, np.inf])
@pytest.mark.parametrize("row", [0, 4])
def test_a_network_that_gives_no_numbers_has_failed_and_seen_nothing_is_not_said(poison: float, row: int) -> None:
    output = raw_output((320, 320, 64, 64, 0.9, 0.0))
    output[row] = poison
    with pytest.raises(DetectorError, match="not finite"):
        decode(output, RAW, SQUARE, HALF, 0.7)


@pytest.mark.parametrize("kind", [np.nan, np.inf, -1, 2, 0.5])
def test_a_class_that_there_is_not_is_a_failure_and_no_object_of_another_class(kind: float) -> None:
    output = np.array([[64, 64, 128, 192, 0.7, kind]], np.float32)
    with pytest.raises(DetectorError, match="class that there is not"):
        decode(output, END_TO_END, SQUARE, HALF, 0.7)


def test_boxes_of_no_area_are_dropped() -> None:
    output = raw_output((-100, 320, 64, 64, 0.9, 0.0))
    assert len(decode(output, RAW, SQUARE, HALF, 0.7)) == 0
