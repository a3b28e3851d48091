"""The detector on real networks: the bundled one, and the one of the street where it is at hand."""

import asyncio
from pathlib import Path

import cv2
import numpy as np
import pytest

from pipeline.detector import DetectorSettings, open_detector, thresholds
from pipeline.letterbox import Letterbox, Picture, draw, fit, smallest_input
from pipeline.yolo import Detections, DetectorError
from tests.shared import PERSON_ONNX, PERSON_PT, PETS, needs_shared

DEMO = Path(__file__).parents[2] / "daemon" / "demo"
WORLD = DEMO / "world-yolo11n.onnx"


def pictures(clip: Path, *positions: int, size_px: int = 416) -> list[tuple[Picture, Letterbox]]:
    capture = cv2.VideoCapture(str(clip))
    found = []
    for position in positions:
        capture.set(cv2.CAP_PROP_POS_FRAMES, position)
        picture = np.asarray(capture.read()[1])
        height, width = picture.shape[:2]
        letterbox = fit(width, height, *smallest_input(width, height, size_px))
        canvas: Picture = np.empty((letterbox.input_height, letterbox.input_width, 3), np.uint8)
        draw(picture.astype(np.uint8, copy=False), letterbox, canvas)
        found.append((canvas, letterbox))
    return found


async def detect(settings: DetectorSettings, frames: list[tuple[Picture, Letterbox]]) -> list[Detections]:
    async with open_detector(settings) as detector:
        return list(await asyncio.gather(*(detector.submit(*frame) for frame in frames)))


def in_pixels(found: Detections, letterbox: Letterbox) -> np.ndarray:
    boxes: np.ndarray = found.boxes * np.array([letterbox.width, letterbox.height] * 2)
    return boxes[np.lexsort((boxes[:, 0], found.classes))]


def assert_same_boxes(
    ours: list[Detections], theirs: list[Detections], frames: list[tuple[Picture, Letterbox]]
) -> None:
    assert sum(map(len, ours)) > 0
    for one, other, (_, letterbox) in zip(ours, theirs, frames, strict=True):
        assert len(one) == len(other)
        assert np.abs(in_pixels(one, letterbox) - in_pixels(other, letterbox)).max(initial=0) < 1.0


async def test_openvino_and_onnxruntime_see_the_same_boxes_within_a_pixel() -> None:
    frames = pictures(DEMO / "yard.mp4", 60, 140, 200, 260)
    openvino = await detect(DetectorSettings(model=WORLD, size_px=416, backend="openvino", precision="f32"), frames)
    onnxruntime = await detect(DetectorSettings(model=WORLD, size_px=416, backend="onnxruntime"), frames)
    assert_same_boxes(openvino, onnxruntime, frames)


@needs_shared
async def test_on_a_real_street_too() -> None:
    frames = pictures(PETS, 100, 400, 700)
    openvino = await detect(DetectorSettings(model=PERSON_ONNX, size_px=416, precision="f32"), frames)
    onnxruntime = await detect(DetectorSettings(model=PERSON_ONNX, size_px=416, backend="onnxruntime"), frames)
    assert_same_boxes(openvino, onnxruntime, frames)


@needs_shared
async def test_the_fastest_precision_sees_the_same_people() -> None:
    """bfloat16 moves a box by a pixel here and there, and may tip one at the threshold; it must not lose or invent."""
    frames = pictures(PETS, *range(100, 760, 60))
    exact = await detect(DetectorSettings(model=PERSON_ONNX, size_px=416, precision="f32", confidence=0.5), frames)
    fast = await detect(DetectorSettings(model=PERSON_ONNX, size_px=416, confidence=0.4), frames)
    missing = [
        box for one, other in zip(exact, fast, strict=True) for box in one.boxes if not _is_among(box, other.boxes)
    ]
    assert (sum(map(len, exact)) > 40, missing) == (True, [])


def _is_among(box: np.ndarray, boxes: np.ndarray) -> bool:
    """Within 2 % of the picture at every side: 8 px."""
    return bool((np.abs(boxes - box).max(axis=1) < 0.02).any())


@needs_shared
async def test_a_pt_file_sees_through_ultralytics_what_its_export_sees() -> None:
    pytest.importorskip("ultralytics", reason="needs the extra `models`")
    frames = pictures(PETS, 100, 400, 700)
    exported = await detect(DetectorSettings(model=PERSON_ONNX, size_px=416, precision="f32"), frames)
    assert_same_boxes(await detect(DetectorSettings(model=PERSON_PT, size_px=416), frames), exported, frames)


def an_export(folder: Path, name: str, **options: object) -> Path:
    ultralytics = pytest.importorskip("ultralytics", reason="needs the extra `models`")
    model = ultralytics.YOLO(f"{name}.yaml")  # random weights: the layout is what counts
    path = Path(model.export(format="onnx", imgsz=128, simplify=False, opset=17, verbose=False, **options))
    return path.rename(folder / f"{name}.onnx")


@pytest.mark.parametrize(
    ("name", "options", "end_to_end"),
    [("yolo11n", {}, False), ("yolo26n", {"nms": False}, True), ("yolo26n", {"nms": None}, False)],
)
@pytest.mark.filterwarnings("ignore")
async def test_each_layout_that_ultralytics_exports_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, options: dict[str, object], end_to_end: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    path = an_export(tmp_path, name, **options)
    frames = pictures(DEMO / "yard.mp4", 60, size_px=128)
    canvas = np.full((128, 128, 3), 114, np.uint8)
    square = [(canvas, fit(640, 360, 128, 128))]
    for backend in ("openvino", "onnxruntime"):
        settings = DetectorSettings(model=path, size_px=128, confidence=0.0001, backend=backend)
        async with open_detector(settings) as detector:
            assert detector.info.end_to_end is end_to_end
            assert detector.fixed_input == (128, 128)
            assert len(detector.info.labels) == 80
            assert np.isfinite((await detector.submit(*square[0])).boxes).all()
    assert frames


async def test_frames_of_different_sizes_can_be_asked_at_once() -> None:
    wide = pictures(DEMO / "yard.mp4", 140)
    small = pictures(DEMO / "yard.mp4", 140, size_px=320)
    found = await detect(DetectorSettings(model=WORLD), [*wide, *small, *wide, *small])
    assert [len(one) for one in found[:2]] == [len(one) for one in found[2:]]


async def test_only_the_wanted_classes_are_reported() -> None:
    frames = pictures(DEMO / "yard.mp4", 200)
    [everything] = await detect(DetectorSettings(model=WORLD), frames)
    [cars] = await detect(DetectorSettings(model=WORLD, classes={"car": 0.35}), frames)
    labels = {everything.labels[index] for index in everything.classes}
    assert {"person", "car"} <= labels
    assert {cars.labels[index] for index in cars.classes} == {"car"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, r"detector\.model: missing"),
        ({"model": Path("/nowhere/model.onnx")}, "no such file: /nowhere/model.onnx"),
        ({"model": WORLD, "classes": {"unicorn": 0.5}}, "does not know 'unicorn'; it knows person"),
        ({"model": WORLD, "backend": "onnxruntime", "device": "cuda"}, "has no CUDAExecutionProvider"),
        ({"model": WORLD, "backend": "onnxruntime", "device": "abacus"}, "'abacus' with onnxruntime; expected one of"),
        ({"model": WORLD, "device": "abacus"}, "abacus"),
    ],
)
async def test_what_is_wrong_with_a_detector_is_said_at_the_start(settings: dict[str, object], message: str) -> None:
    with pytest.raises(DetectorError, match=message):
        async with open_detector(DetectorSettings(**settings)):
            pass


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
@pytest.mark.parametrize("content", [b"", b"not a model", b"\x08\x07\x12" + b"\xff" * 2000])
async def test_a_file_that_is_no_model_is_refused(tmp_path: Path, backend: str, content: bytes) -> None:
    (model := tmp_path / "broken.onnx").write_bytes(content)
    with pytest.raises(DetectorError, match=r"broken\.onnx"):
        async with open_detector(DetectorSettings(model=model, backend=backend)):
            pass


async def test_a_half_copied_model_is_refused(tmp_path: Path) -> None:
    (model := tmp_path / "half.onnx").write_bytes(WORLD.read_bytes()[: WORLD.stat().st_size // 2])
    for backend in ("openvino", "onnxruntime"):
        with pytest.raises(DetectorError, match=r"half\.onnx"):
            async with open_detector(DetectorSettings(model=model, backend=backend)):
                pass


async def test_an_onnx_backend_does_not_take_a_pt_file(tmp_path: Path) -> None:
    (model := tmp_path / "model.pt").write_bytes(b"never loaded")
    with pytest.raises(DetectorError, match=r"openvino reads \.onnx files"):
        async with open_detector(DetectorSettings(model=model, backend="openvino")):
            pass


@pytest.mark.parametrize("name", ["picture.jpg", "notes.txt", "broken.pt", "broken.engine"])
async def test_a_file_that_ultralytics_does_not_know_either_is_refused(tmp_path: Path, name: str) -> None:
    pytest.importorskip("ultralytics", reason="needs the extra `models`")
    (model := tmp_path / name).write_bytes(b"no model at all")
    with pytest.raises(DetectorError, match="ultralytics can't load it"):
        async with open_detector(DetectorSettings(model=model)):
            pass


def test_a_class_left_out_has_a_threshold_that_nothing_reaches() -> None:
    assert thresholds(["person", "car"], DetectorSettings(classes={"car": 0.5})).tolist() == [2.0, 0.5]
