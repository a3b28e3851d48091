"""Small real values for tests."""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import numpy as np

from pipeline.events import Event, EventKind, Priority
from pipeline.identity import fresh_id
from pipeline.yolo import Detections
from providers.base import Analysis, Answer, AnswerStatus, Box, Detection, Question, QuestionKind

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
COUNT = Question("people_count", QuestionKind.COUNT, "How many people are visible?", object="person")


def an_event(priority: Priority = Priority.MEDIUM, **changes: Any) -> Event:
    values: dict[str, Any] = {
        "id": fresh_id(),
        "site": "test",
        "camera": "yard",
        "kind": EventKind.OBJECT_APPEARED,
        "priority": priority,
        "reason": "person appeared, 90% sure",
        "captured_at": NOW,
        "detected_at": NOW,
        "detections": (Detection("person", 0.9, Box(0.1, 0.2, 0.3, 0.6), 7),),
        "label": "person",
        "track_id": 7,
        "jpeg": b"\xff\xd8 not looked at \xff\xd9",
    }
    return Event(**(values | changes))


def an_analysis(event_id: UUID, count: int = 3, degraded: bool = False) -> Analysis:
    answer = Answer(COUNT, count, AnswerStatus.OK)
    return Analysis(event_id, "fake", "fake-1", "r1", (answer,), NOW, NOW, 12.5, degraded=degraded)


def seen(*boxes: tuple[float, float, float, float, float], label: str = "person") -> Detections:
    """Detections of one frame from (x_min, y_min, x_max, y_max, confidence)."""
    rows = np.array(boxes, np.float32).reshape(-1, 5)
    return Detections(rows[:, :4], rows[:, 4], np.zeros(len(rows), np.int64), (label,))
