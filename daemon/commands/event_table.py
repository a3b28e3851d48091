"""Events for a person: a table for many, a line for one, and no character that a terminal would obey."""

import re
from collections.abc import Iterable
from datetime import datetime

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.event_log import LoggedEvent

WIDTH_WITHOUT_TERMINAL = 100
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff]")
_STYLES = {
    "critical": "bold red",
    "high": "yellow",
    "low": "dim",
    "open": "cyan",
    "degraded": "yellow",
    "failed": "red",
    "expired": "magenta",
    "shed": "magenta",
}


def printable(text: str) -> str:
    """What a terminal would obey, or what turns text around, as \\u001b; JSON reads it as the same."""
    return _UNPRINTABLE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def console() -> Console:
    shown = Console(highlight=False)
    return shown if shown.is_terminal else Console(highlight=False, width=WIDTH_WITHOUT_TERMINAL)


def print_table(events: Iterable[LoggedEvent]) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for heading in ("time", "camera", "kind", "priority", "outcome"):
        table.add_column(heading, overflow="fold", no_wrap=heading == "time")
    table.add_column("what", overflow="fold", ratio=1, min_width=24)
    for event in events:
        table.add_row(*_cells(event))
    console().print(table)


def print_line(event: LoggedEvent) -> None:
    time, camera, kind, priority, outcome, what = _cells(event)
    line = Text.assemble(time, " ", _padded(camera, 12), " ", _padded(kind, 15), " ", _padded(priority, 8), " ")
    line.append_text(_padded(outcome, 8)).append(" ").append_text(what)
    Console(highlight=False, soft_wrap=True).print(line)


def _cells(event: LoggedEvent) -> tuple[Text, ...]:
    when = datetime.fromisoformat(event["captured_at"]).astimezone()
    words = (
        f"{when:%m-%d %H:%M:%S}",
        event["camera"],
        event["kind"],
        event["priority"],
        event["outcome"] or "open",
        _what(event),
    )
    return tuple(Text(printable(word), style=_STYLES.get(word, "")) for word in words)


def _what(event: LoggedEvent) -> str:
    """What the model saw; without an answer why there is none; while it is open why it was asked."""
    if description := (event["analysis"] or {}).get("scene_description"):
        return str(description)
    if event["outcome"] in ("failed", "expired", "shed") and event["outcome_reason"]:
        return f"{event['reason']} ({event['outcome_reason']})"
    return str(event["reason"])


def _padded(text: Text, width: int) -> Text:
    padded = text.copy()
    padded.pad_right(max(0, width - padded.cell_len))
    return padded
