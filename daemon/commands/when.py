"""Times and spans as people type them: `1h`, `30m`, `2d`, or a date and time in ISO form."""

import re
from datetime import UTC, datetime, timedelta

import click

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_SPAN = re.compile(r"(\d{1,6})([smhdw])")


class Span(click.ParamType[timedelta]):
    """A span of time above zero."""

    name = "span"

    def convert(self, value: object, param: click.Parameter | None, context: click.Context | None) -> timedelta:
        if isinstance(value, timedelta):
            return value
        span = parse_span(str(value))
        if span is None:
            self.fail(f"{value!r} is not a span of time such as 90s, 30m, 12h, 7d or 2w", param, context)
        if not span:
            self.fail(f"{value!r} would keep nothing", param, context)
        return span


class When(click.ParamType[datetime]):
    """A moment: that long ago, or an ISO date and time (local unless it says where)."""

    name = "time"

    def convert(self, value: object, param: click.Parameter | None, context: click.Context | None) -> datetime:
        if isinstance(value, datetime):
            return value
        if (span := parse_span(str(value))) is not None:
            return datetime.now(UTC) - span
        try:
            return datetime.fromisoformat(str(value)).astimezone(UTC)
        except (ValueError, OverflowError):
            self.fail(f"{value!r} is neither a span such as 1h nor a time such as 2026-11-20T14:30", param, context)


def parse_span(text: str) -> timedelta | None:
    match = _SPAN.fullmatch(text.strip())
    return timedelta(**{_UNITS[match[2]]: int(match[1])}) if match else None
