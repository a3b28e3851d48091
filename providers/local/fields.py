"""Reading fields of a request: each is what it has to be, or a BadRequestError names it and what was expected."""

from collections.abc import Mapping, Sequence
from typing import Any

from providers.local.engine import MAX_TOKENS, Asked, Reference
from providers.local.errors import BadRequestError
from providers.local.pictures import from_base64, from_url

TEXT_MAX = 100_000
TOKENS_MAX = 100_000


def text(body: Mapping[str, Any], name: str, default: str | None = None) -> str:
    value = body.get(name, default)
    if not isinstance(value, str) or not value.strip():
        raise BadRequestError(f"{name}: a text is needed, not {_shown(value)}")
    if len(value) > TEXT_MAX:
        raise BadRequestError(f"{name}: {len(value)} characters; at most {TEXT_MAX} are read")
    return value


def flag(body: Mapping[str, Any], name: str) -> bool:
    value = body.get(name, False)
    if not isinstance(value, bool):
        raise BadRequestError(f"{name}: must be true or false, not {_shown(value)}")
    return value


def whole(body: Mapping[str, Any], name: str, default: int, least: int, most: int) -> int:
    value = body.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise BadRequestError(f"{name}: must be a whole number from {least} to {most}, not {_shown(value)}")
    return value


def number(body: Mapping[str, Any], name: str, default: float, least: float, most: float) -> float:
    value = body.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise BadRequestError(f"{name}: must be a number from {least:g} to {most:g}, not {_shown(value)}")
    return float(value)


def table(body: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = body.get(name)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise BadRequestError(f"{name}: must be an object, not {_shown(value)}")
    return value


def picture(body: Mapping[str, Any]) -> bytes | None:
    """`image_url`: a data: URL, or base64 alone, as Station takes it. None where there is none."""
    value = body.get("image_url")
    if value is None:
        return None
    if isinstance(value, Mapping):
        value = value.get("url")
    if not isinstance(value, str):
        raise BadRequestError(f"image_url: a data: URL is needed, not {_shown(value)}")
    is_url = ":" in value[:16]
    return from_url(value) if is_url else from_base64(value)


def needed_picture(body: Mapping[str, Any]) -> bytes:
    found = picture(body)
    if found is None:
        raise BadRequestError("image_url: a picture is needed")
    return found


def places(body: Mapping[str, Any]) -> list[Reference]:
    """`spatial_refs`: points [x, y] and boxes [x_min, y_min, x_max, y_max], in 0…1."""
    value = body.get("spatial_refs") or []
    if not isinstance(value, Sequence) or isinstance(value, str) or not all(_is_place(one) for one in value):
        raise BadRequestError(
            "spatial_refs: must be a list of [x, y] or [x_min, y_min, x_max, y_max], each from 0 to 1"
        )
    return [tuple(map(float, one)) for one in value]  # type: ignore[misc]


def _is_place(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) in (2, 4)
        and all(isinstance(one, int | float) and not isinstance(one, bool) and 0 <= one <= 1 for one in value)
    )


def asked(body: Mapping[str, Any], settings: Mapping[str, Any], tokens: str = "max_tokens") -> Asked:
    """Greedy unless a temperature is sent, so that the same picture gives the same answer."""
    return Asked(
        urgency=whole(body, "priority", 0, -1_000_000, 1_000_000),
        max_tokens=whole(settings, tokens, MAX_TOKENS, 1, TOKENS_MAX),
        temperature=number(settings, "temperature", 0.0, 0.0, 10.0),
        top_p=number(settings, "top_p", 0.3, 0.0, 1.0),
    )


def _shown(value: Any) -> str:
    told = repr(value)
    return told if len(told) <= 60 else f"{told[:60]}…"
