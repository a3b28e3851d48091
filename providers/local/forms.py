"""JSON by a schema, from a model that can't write JSON: one question for each field, put together here."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from providers.answers import answer_from_text
from providers.base import AnswerStatus, Question, QuestionKind
from providers.local.answers import Filled
from providers.local.engine import MAX_OBJECTS, Asked, Engine
from providers.local.errors import BadRequestError
from providers.moondream_skills import is_there

FIELDS_MAX = 32
YES_NO: Mapping[str, tuple[str, ...]] = {"yes": ("yes", "Yes"), "no": ("no", "No")}
SHORT_TOKENS = 16
_BOX = dict.fromkeys(("x_min", "y_min", "x_max", "y_max")).keys()
_POINT = {"x": None, "y": None}.keys()


async def fill(engine: Engine, picture: bytes | None, about: str, schema: Mapping[str, Any], asked: Asked) -> Filled:
    """An object of booleans, choices (enum), integers, texts, and arrays of boxes. What a field asks is its
    description, or else its name. Raises BadRequestError for other schemas."""
    fields = schema.get("properties")
    if schema.get("type") != "object" or not isinstance(fields, Mapping) or not fields:
        raise BadRequestError("response_format: the schema must be an object with properties")
    if len(fields) > FIELDS_MAX:
        raise BadRequestError(f"response_format: {len(fields)} properties; at most {FIELDS_MAX}")
    jobs = [_value(engine, picture, about, name, field, asked) for name, field in fields.items()]
    told = await asyncio.gather(*jobs)
    values = {name: value for name, (value, _) in zip(fields, told, strict=True)}
    return Filled(json.dumps(values, ensure_ascii=False), sum(tokens for _, tokens in told))


async def _value(
    engine: Engine, picture: bytes | None, about: str, name: str, field: Any, asked: Asked
) -> tuple[Any, int]:
    """And how many tokens it took."""
    if not isinstance(field, Mapping):
        raise BadRequestError(f"response_format: property {name!r} is no schema")
    question = _question(about, name, field)
    kind, choices = _type(field), _choices(field)
    if choices:
        chosen = await engine.choose(picture, question, {one: (one, one.capitalize()) for one in choices}, asked)
        return chosen.choice, 1
    items = field.get("items")
    match kind:
        case "boolean":
            chosen = await engine.choose(picture, question, YES_NO, asked)
            return chosen.choice == "yes", 1
        case "integer":
            return await _count(engine, picture, question, name, asked)
        case "string":
            answer = await engine.query(picture, question, asked)
            return answer.text.strip(), len(answer.tokens)
        case "array" if isinstance(items, Mapping) and (labels := _choices(items)):
            return await _labels(engine, picture, labels, asked)
        case "array" if picture is not None and _properties(items).keys() >= _BOX:
            found = await engine.detect(picture, _what(field, name), MAX_OBJECTS, asked)
            boxes = [{side: getattr(box, side) for side in _BOX} for box in found.boxes]
            return boxes, 3 * len(boxes)
        case "array" if picture is not None and _properties(items).keys() >= _POINT:
            found = await engine.point(picture, _what(field, name), MAX_OBJECTS, asked)
            return [{"x": point.x, "y": point.y} for point in found.points], 2 * len(found.points)
        case _:
            raise BadRequestError(
                f"response_format: property {name!r} is of type {field.get('type')!r}; this model can fill boolean,"
                " integer, string, enum, and arrays of an enum, of {x_min, y_min, x_max, y_max} or of {x, y}"
            )


def _type(field: Mapping[str, Any]) -> Any:
    """Of one that may be null as well, what else it is."""
    told = field.get("type")
    if isinstance(told, list):
        others = [kind for kind in told if kind != "null"]
        return others[0] if len(others) == 1 else told
    return told


def _choices(field: Mapping[str, Any]) -> list[str]:
    told = field.get("enum")
    if not isinstance(told, list):
        return []
    choices = [one for one in told if one is not None]
    return choices if all(isinstance(one, str) for one in choices) else []


async def _labels(engine: Engine, picture: bytes | None, labels: Sequence[str], asked: Asked) -> tuple[list[str], int]:
    """Each by itself."""
    chosen = await asyncio.gather(*(engine.choose(picture, is_there(label), YES_NO, asked) for label in labels))
    return [label for label, one in zip(labels, chosen, strict=True) if one.choice == "yes"], len(labels)


def _what(field: Mapping[str, Any], name: str) -> str:
    return str(field.get("description") or name.replace("_", " "))


def _properties(schema: Any) -> Mapping[str, Any]:
    properties = schema.get("properties") if isinstance(schema, Mapping) else None
    return properties if isinstance(properties, Mapping) else {}


def _question(about: str, name: str, field: Mapping[str, Any]) -> str:
    """What the user said matters where the field says nothing of its own."""
    if isinstance(described := field.get("description"), str) and described.strip():
        return described.strip()
    return f"{about.strip()} {name.replace('_', ' ')}?".strip()


async def _count(
    engine: Engine, picture: bytes | None, question: str, name: str, asked: Asked
) -> tuple[int | None, int]:
    """None where the model said no number."""
    short = replace(asked, max_tokens=SHORT_TOKENS)
    answer = await engine.query(picture, question, short)
    read = answer_from_text(Question(name, QuestionKind.COUNT, question), answer.text)
    value = read.value if read.status is AnswerStatus.OK else None
    return (value if isinstance(value, int) else None), len(answer.tokens)
