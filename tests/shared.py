"""Real material that is not part of the project: a test that needs it says so where it is absent."""

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"
PETS = SHARED / "media" / "pets09-s2l1.mp4"
PERSON_ONNX = SHARED / "models" / "yolo11n-person.onnx"
PERSON_PT = SHARED / "models" / "yolo11n-person.pt"

needs_shared = pytest.mark.skipif(
    not SHARED.exists(), reason="needs ../shared: a real street video and a detector for it"
)
