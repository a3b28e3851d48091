"""Moondream's dialect: one path a skill, as Station and Cloud speak it.

Ours alone: `choices` in a query (a list of allowed answers) is decided by likelihood, and `priority` (the lower, the
sooner) puts a request in front of others.
"""

import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, get_args
from uuid import uuid4

from providers.base import Box
from providers.local import fields
from providers.local.answers import Answer, Reasoning
from providers.local.engine import MAX_OBJECTS, Asked, CaptionLength, Engine
from providers.local.errors import BadRequestError

OBJECTS_MAX = 1000
CHOICES_MAX = 64


async def query(engine: Engine, body: Mapping[str, Any]) -> dict[str, Any]:
    _no_stream(body)
    question, picture = fields.text(body, "question"), fields.picture(body)
    asked = fields.asked(body, fields.table(body, "settings"))
    if body.get("choices") is not None:
        chosen = await engine.choose(picture, question, _choices(body["choices"]), asked)
        told = {"answer": chosen.choice, "probabilities": chosen.probabilities, "mass": chosen.mass}
        return _told(told, asked, 1)
    places = fields.places(body)
    if places and picture is None:
        raise BadRequestError("spatial_refs: they are places of a picture, and there is none")
    reasoning = fields.flag(body, "reasoning")
    answer = await engine.query(picture, question, asked, reasoning=reasoning, places=places)
    told = {"answer": answer.text} | ({"reasoning": _reasoning(answer.reasoning)} if answer.reasoning else {})
    return _told(told, asked, len(answer.tokens), answer.stop)


async def caption(engine: Engine, body: Mapping[str, Any]) -> dict[str, Any]:
    _no_stream(body)
    length = fields.text(body, "length", "normal")
    if length not in get_args(CaptionLength):
        raise BadRequestError(f"length: must be short, normal or long, not {length!r}")
    asked = fields.asked(body, fields.table(body, "settings"))
    answer: Answer = await engine.caption(fields.needed_picture(body), length, asked)  # type: ignore[arg-type]
    return _told({"caption": answer.text}, asked, len(answer.tokens), answer.stop)


async def detect(engine: Engine, body: Mapping[str, Any]) -> dict[str, Any]:
    what, settings = fields.text(body, "object"), fields.table(body, "settings")
    most = fields.whole(settings, "max_objects", MAX_OBJECTS, 1, OBJECTS_MAX)
    asked = fields.asked(body, settings)
    found = await engine.detect(fields.needed_picture(body), what, most, asked)
    boxes = _distinct([_clipped(box) for box in found.boxes])
    return _told({"objects": [_box(box) for box in boxes]}, asked, 3 * len(found.boxes), found.stop)


async def point(engine: Engine, body: Mapping[str, Any]) -> dict[str, Any]:
    what, settings = fields.text(body, "object"), fields.table(body, "settings")
    most = fields.whole(settings, "max_objects", MAX_OBJECTS, 1, OBJECTS_MAX)
    asked = fields.asked(body, settings)
    found = await engine.point(fields.needed_picture(body), what, most, asked)
    points = list(dict.fromkeys(found.points))
    told = {"points": [{"x": one.x, "y": one.y} for one in points], "count": len(points)}
    return _told(told, asked, 2 * len(found.points), found.stop)


SKILLS: Mapping[str, Callable[[Engine, Mapping[str, Any]], Awaitable[dict[str, Any]]]] = {
    "query": query,
    "caption": caption,
    "detect": detect,
    "point": point,
}


def _told(answer: Mapping[str, Any], asked: Asked, tokens: int, stop: str = "stop") -> dict[str, Any]:
    request = f"{time.strftime('%Y-%m-%d', time.gmtime())}_{uuid4().hex[:12]}"
    metrics = {"input_tokens": asked.used.input_tokens, "output_tokens": tokens}
    return {"request_id": request, **answer, "finish_reason": stop, "metrics": metrics}


def _no_stream(body: Mapping[str, Any]) -> None:
    if fields.flag(body, "stream"):
        raise BadRequestError("stream: answers come whole from this server")


def _choices(value: Any) -> dict[str, tuple[str, ...]]:
    """Each in its own spelling, and with a capital."""
    if not isinstance(value, list) or not 2 <= len(value) <= CHOICES_MAX:
        raise BadRequestError(f"choices: must be a list of 2 to {CHOICES_MAX} texts")
    if not all(isinstance(one, str) and one.strip() for one in value) or len(set(value)) < len(value):
        raise BadRequestError("choices: must be texts, each another")
    return {one: tuple(dict.fromkeys((one, one[:1].upper() + one[1:]))) for one in value}


def _reasoning(reasoning: Reasoning) -> dict[str, Any]:
    grounding = [
        {"start_idx": one.start, "end_idx": one.end, "points": [list(place) for place in one.points]}
        for one in reasoning.grounding
    ]
    return {"text": reasoning.text, "grounding": grounding}


def _clipped(box: Box) -> Box:
    """The model says centre and size, which may reach beyond the picture."""
    return Box(*(min(1.0, max(0.0, side)) for side in (box.x_min, box.y_min, box.x_max, box.y_max)))


def _distinct(boxes: list[Box]) -> list[Box]:
    """The model repeats itself at times; an empty box is none."""
    return [box for box in dict.fromkeys(boxes) if box.area > 0]


def _box(box: Box) -> dict[str, float]:
    return {"x_min": box.x_min, "y_min": box.y_min, "x_max": box.x_max, "y_max": box.y_max}
