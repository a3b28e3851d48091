"""What the daemon says about itself, for a person at a terminal."""

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from daemon.commands.event_table import console, printable

Told = Mapping[str, Any]

MINUTE_S, HOUR_S, DAY_S = 60, 3600, 86400
_STYLES = {"up": "green", "connecting": "yellow", "paused": "yellow", "ended": "dim", "untried": "dim"}
_STAGES = (
    ("lva_e2e_duration_seconds", "picture to row"),
    ("lva_detector_inference_speed_seconds", "detector"),
    ("lva_capture_to_accept_seconds", "picture to disk"),
    ("lva_journal_commit_seconds", "commit"),
    ("lva_queue_wait_seconds", "queue"),
    ("lva_capacity_wait_seconds", "turn at the provider"),
    ("lva_vlm_duration_seconds", "provider"),
    ("lva_upload_batch_seconds", "upload"),
)


def print_page(told: Told) -> None:
    parts: list[RenderableType] = [_headline(told), *_troubles(told)]
    for table in (_cameras(told["cameras"]), _providers(told), _stages(told["stages"])):
        if table.row_count:
            parts += [Text(""), table]
    parts += [Text(""), *_facts(told)]
    console().print(Group(*parts))


def _headline(told: Told) -> Text:
    count = len(told["troubles"])
    verdict = (
        ("all is well", "bold green") if not count else (f"{count} thing{'s'[: count - 1]} to look at", "bold red")
    )
    return Text.assemble(
        ("lva", "bold"), f" {told['version']}, site {told['site']}, up {span(told['uptime_s'])}: ", verdict
    )


def _troubles(told: Told) -> Iterator[Text]:
    for trouble in told["troubles"]:
        yield Text.assemble(("  ! ", "red"), printable(trouble))


def _table(*headings: str, numbers: int) -> Table:
    """The first column is a name, the last `numbers` ones are numbers."""
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for index, heading in enumerate(headings):
        is_number = index >= len(headings) - numbers
        table.add_column(heading, justify="right" if is_number else "left", no_wrap=is_number, overflow="fold")
    return table


def _cameras(cameras: list[Told]) -> Table:
    table = _table("camera", "state", "fps", "detected", "left out", "pictures", "restarts", numbers=5)
    for camera in cameras:
        table.add_row(
            camera["name"],
            _state(camera["state"], camera["down_s"]),
            *(f"{camera[rate]:.1f}" for rate in ("camera_fps", "process_fps", "skipped_fps")),
            f"{camera['grabbed']:,}",
            str(camera["restarts"]),
        )
    return table


def _providers(told: Told) -> Table:
    table = _table("provider", "state", "failed", "asked", "answered", "now", "mean", "p95", numbers=5)
    calls = {
        stage["labels"]["provider"]: stage for stage in told["stages"] if stage["name"] == "lva_vlm_duration_seconds"
    }
    for provider in told["providers"]:
        call = calls.get(provider["name"])
        table.add_row(
            printable(provider["name"]),
            _state(provider["state"]),
            _counts(provider["failures"]) or "-",
            *(f"{provider[key]:,}" for key in ("asked", "answered", "asking")),
            *((span(call["mean_s"]), span(call["p95_s"])) if call else ("-", "-")),
        )
    return table


def _stages(stages: list[Told]) -> Table:
    table = _table("stage", "of", "times", "mean", "p50", "p95", numbers=4)
    for name, words in _STAGES:
        for stage in stages:
            if stage["name"] == name:
                of = printable(" ".join(stage["labels"].values()))
                times = (span(stage[key]) for key in ("mean_s", "p50_s", "p95_s"))
                table.add_row(words, of, f"{stage['count']:,}", *times)
    return table


def _facts(told: Told) -> Iterator[Text]:
    for name, fact in (
        ("events", _events(told["events"])),
        ("waiting", _waiting(told)),
        ("rows", _rows(told)),
        ("database", _database(told["database"])),
        ("process", _process(told)),
    ):
        yield Text.assemble((f"{name:<10}", "bold"), fact)


def _events(events: Told) -> str:
    facts = [f"{sum(events['accepted'].values()):,} accepted", _counts(events["outcomes"])]
    facts += [f"{events['refused']:,} refused" if events["refused"] else ""]
    facts += [f"{events['gaps']:,} gaps" if events["gaps"] else ""]
    return "; ".join(filter(None, facts))


def _waiting(told: Told) -> str:
    journal, queue = told["journal"], told["queue"]
    count = journal["waiting"] + journal["leased"]
    if not count:
        return "nothing"
    retrying = f", {queue['retrying']:,} to be asked about again" if queue["retrying"] else ""
    where = _counts(queue["waiting"]) or "none in the queue"
    return f"{count:,} events ({where}{retrying}), the oldest for {span(queue['oldest_s'])}"


def _rows(told: Told) -> str:
    journal = told["journal"]
    letters = f", {journal['dead_letters']:,} dead letters" if journal["dead_letters"] else ""
    return f"{told['database']['uploaded']:,} in the database, {journal['outbox']:,} on their way{letters}"


def _database(database: Told) -> Text:
    trouble = f": {printable(database['trouble'])}" if database["trouble"] else ""
    return Text.assemble(_state(database["state"], database["down_s"]), trouble)


def _process(told: Told) -> str:
    process = told["process"]
    lost = f", {told['log_lines_dropped']:,} lines of the log lost" if told["log_lines_dropped"] else ""
    return f"{process['rss_bytes'] / 1e6:.0f} MB, {process['open_fds']} files, {process['threads']} threads{lost}"


def _state(state: str, down_s: float = 0.0) -> Text:
    return Text(f"{state} for {span(down_s)}" if down_s else state, style=_STYLES.get(state, "bold red"))


def _counts(counts: Mapping[str, int]) -> str:
    """`5 done, 2 failed`: those that are not 0."""
    return ", ".join(f"{count:,} {name}" for name, count in counts.items() if count)


def span(seconds: float) -> str:
    """`0.4 ms`, `23 ms`, `1.4 s`, `3 min`, `2 h 5 min`, `3 d 4 h`."""
    if seconds < 0.001:
        return f"{seconds * 1000:.1f} ms"
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < MINUTE_S:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    for unit, length_s, rest_unit, rest_s in (("d", DAY_S, "h", HOUR_S), ("h", HOUR_S, "min", MINUTE_S)):
        if seconds >= length_s:
            rest = int(seconds % length_s // rest_s)
            return f"{seconds // length_s:.0f} {unit}" + (f" {rest} {rest_unit}" if rest else "")
    return f"{seconds // MINUTE_S:.0f} min"
