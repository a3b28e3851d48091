"""Events, analyses and outcomes as the rows that the database will hold: JSON objects keyed by column."""

import json
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import uuid6

from pipeline.clock import Moment
from pipeline.events import Event, EventKind, EventOutcome, Gap, Priority
from pipeline.questions import fixed_columns
from providers.base import Analysis, Answer, Attempt, Box, Detection, as_json, truncated

TEXT_LIMIT_BYTES = 16 * 1024
"""No text of a row is longer; what a model or a camera says is cut there."""


def event_row(event: Event, accepted: Moment) -> dict[str, Any]:
    return {
        "event_id": str(event.id),
        "site": event.site,
        "camera": event.camera,
        "kind": event.kind,
        "priority": event.priority.word,
        "reason": event.reason,
        "label": event.label or None,
        "track_id": event.track_id,
        "related_id": str(event.related_id) if event.related_id else None,
        "detections": [_detection(detection) for detection in event.detections],
        "captured_at": _time(event.captured_at),
        "detected_at": _time(event.detected_at),
        "accepted_at": _time(accepted.at),
        "clock_synced": accepted.synced,
        "boot_id": accepted.boot_id,
        "boot_s": accepted.boot_s,
    }


def event_from_row(row: Mapping[str, Any], jpeg: bytes) -> Event:
    """The event that event_row was made of, with its picture."""
    return Event(
        id=UUID(row["event_id"]),
        site=row["site"],
        camera=row["camera"],
        kind=EventKind(row["kind"]),
        priority=Priority[row["priority"].upper()],
        reason=row["reason"],
        captured_at=datetime.fromisoformat(row["captured_at"]),
        detected_at=datetime.fromisoformat(row["detected_at"]),
        detections=tuple(_detection_from(item) for item in row["detections"]),
        label=row["label"] or "",
        track_id=row["track_id"],
        related_id=UUID(row["related_id"]) if row["related_id"] else None,
        jpeg=jpeg,
    )


def analysis_row(analysis: Analysis) -> dict[str, Any]:
    return {
        "event_id": str(analysis.event_id),
        "provider": analysis.provider,
        "model": analysis.model,
        "model_version": analysis.model_version,
        "degraded": analysis.degraded,
        "answers": {answer.question.name: _answer(answer) for answer in analysis.answers},
        **fixed_columns(analysis),
        "processing_time_ms": round(analysis.processing_time_ms, 3),
        "tokens_in": analysis.tokens_in,
        "tokens_out": analysis.tokens_out,
        "cost_usd": analysis.cost_usd,
        "attempts": [_attempt(attempt) for attempt in analysis.attempts],
        "started_at": _time(analysis.started_at),
        "completed_at": _time(analysis.completed_at),
    }


def outcome_row(event_id: UUID, outcome: EventOutcome, reason: str, ended_at: datetime) -> dict[str, Any]:
    return {"event_id": str(event_id), "outcome": outcome, "reason": reason, "ended_at": _time(ended_at)}


def gap_row(gap: Gap) -> dict[str, Any]:
    return {
        "gap_id": str(gap.id),
        "site": gap.site,
        "camera": gap.camera,
        "started_at": _time(gap.started_at),
        "ended_at": _time(gap.ended_at),
        "reason": gap.reason,
    }


def alarm_row(site: str, kind: str, message: str, raised_at: datetime) -> dict[str, Any]:
    return {
        "alarm_id": str(uuid6.uuid7()),
        "site": site,
        "kind": kind,
        "message": message,
        "raised_at": _time(raised_at),
    }


def dead_letter_row(table: str, sqlstate: str, reason: str, body: str, failed_at: datetime) -> dict[str, Any]:
    """The payload is text about the row, escaped once more so that what poisoned the row can't poison this one."""
    return {
        "dead_letter_id": str(uuid6.uuid7()),
        "table_name": table,
        "sqlstate": sqlstate,
        "reason": reason,
        "payload": truncated(body.encode("unicode_escape").decode("ascii")),
        "failed_at": _time(failed_at),
    }


def to_json(row: Mapping[str, Any]) -> str:
    """JSON that Postgres takes: no NUL, no lone surrogate, no NaN (null instead), no text without end."""
    try:
        text = _dump(row)
        text.encode("utf-8")
    except ValueError:  # not finite, or not Unicode
        return _dump(sanitized(row))
    return text if len(text) <= TEXT_LIMIT_BYTES and "\\u0000" not in text else _dump(sanitized(row))


def _dump(row: Any) -> str:
    return json.dumps(row, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def sanitized(value: Any) -> Any:
    if isinstance(value, str):
        return truncated(value, TEXT_LIMIT_BYTES)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {truncated(str(key), TEXT_LIMIT_BYTES): sanitized(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [sanitized(item) for item in value]
    return value


def _answer(answer: Answer) -> dict[str, Any]:
    return {
        "kind": answer.question.kind,
        "value": as_json(answer.value),
        "status": answer.status,
        "confidence": answer.confidence,
        "confidence_source": answer.confidence_source,
        "raw": truncated(answer.raw),
    }


def _attempt(attempt: Attempt) -> dict[str, Any]:
    return {
        "provider": attempt.provider,
        "failure": attempt.failure,
        "message": attempt.message,
        "duration_ms": round(attempt.duration_ms, 3),
    }


def _detection(detection: Detection) -> dict[str, Any]:
    return {
        "label": detection.label,
        "confidence": detection.confidence,
        "track_id": detection.track_id,
        **as_json((detection.box,))[0],
    }


def _detection_from(item: Mapping[str, Any]) -> Detection:
    box = Box(item["x_min"], item["y_min"], item["x_max"], item["y_max"])
    return Detection(item["label"], item["confidence"], box, item["track_id"])


def _time(moment: datetime) -> str:
    """ISO 8601 in UTC. Naive times are a bug here: Postgres would take them silently for something else."""
    if moment.tzinfo is None:
        raise ValueError(f"a time without a zone: {moment}")
    return moment.astimezone(UTC).isoformat()
