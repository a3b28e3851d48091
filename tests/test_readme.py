"""README told true: its tables are the models', its SQL runs, its TOML loads, its events and commands exist.

`python -m tests.test_readme` writes the tables of configuration and metrics anew.
"""

import ast
import json
import re
import tomllib
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from enum import Enum
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import asyncpg
import click
import pytest
from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from daemon import metrics
from daemon.cli import lva
from daemon.config import Config, load_config
from pipeline.camera_link import Health
from pipeline.clock import Moment
from pipeline.events import Event, EventKind, EventOutcome, Gap, Priority
from pipeline.identity import fresh_id
from pipeline.questions import DEFAULT_QUESTIONS
from pipeline.rows import alarm_row, analysis_row, dead_letter_row, event_row, gap_row, outcome_row
from pipeline.sql import statement
from providers.base import (
    Analysis,
    Answer,
    AnswerStatus,
    Attempt,
    Box,
    ConfidenceSource,
    Detection,
    Failure,
    Question,
    Value,
)
from providers.local import __main__ as local
from providers.settings import CommonProviderSettings

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"

ONLY_ON_A_VARIABLE = {
    "camera.{}": {f"camera.{health}" for health in Health if health is not Health.OK},
    "provider.{}": {"provider.down", "provider.paused", "provider.budget_spent"},
}
"""What the names that end in a variable come to."""

FROM_LIBRARIES = "library.log"
SECRETS = ("door_password", "moondream_key", "pg_password", "gpu_box_key")


def text() -> str:
    return README.read_text("utf-8")


def section(title: str) -> str:
    """From this heading to the next one of its kind."""
    return text().partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text(), re.DOTALL | re.MULTILINE)


def rows_of(table: str) -> dict[str, str]:
    """The first cell of each row, which stands in backquotes, and the rest."""
    return dict(re.findall(r"^\| `([^`]+)` +\|(.*)\|$", table, re.MULTILINE))


# ------------------------------------------------------------------------------------------- configuration


def configuration() -> str:
    """Every section and key, as one table."""
    lines = ["| key | value | default | meaning |", "|---|---|---|---|", *_section("", Config)]
    return "\n".join(lines)


def _section(name: str, model: type[BaseModel], leave_out: frozenset[str] = frozenset()) -> Iterator[str]:
    """The keys of a section first, then the sections in it."""
    fields = {key: field for key, field in model.model_fields.items() if key not in leave_out}
    inner = {key: found for key, field in fields.items() if (found := _models(field.annotation))}
    for key, field in fields.items():
        if key not in inner:
            yield f"| `{key}` | {_value(field)} | {_default(field)} | {field.description or ''} |"
    for key, models in inner.items():
        path = f"{name}.{key}" if name else key
        heading = f"[[{path}]]" if get_origin(fields[key].annotation) is tuple else f"[{path}]"
        meaning = fields[key].description or ""
        yield f"| **`{heading}`** | | | {meaning} |"
        yield from _providers(models) if len(models) > 1 else _section(path, models[0])


def _providers(kinds: list[type[BaseModel]]) -> Iterator[str]:
    """What all have, then what each kind has beside it."""
    yield from _section("providers", CommonProviderSettings)
    common = frozenset(CommonProviderSettings.model_fields) | {"kind"}
    for kind in kinds:
        (word,) = get_args(kind.model_fields["kind"].annotation)
        which = "also" if issubclass(kind, CommonProviderSettings) else "of all these only `name`"
        yield f'| **`kind = "{word}"`** | | | {which} |'
        yield from _section("providers", kind, common)


def _models(annotation: Any) -> list[type[BaseModel]]:
    """The models that a field holds: one, or one of several."""
    if get_origin(annotation) in (tuple, Union, UnionType, Annotated):
        return [model for part in get_args(annotation) for model in _models(part)]
    return [annotation] if isinstance(annotation, type) and issubclass(annotation, BaseModel) else []


def _value(field: FieldInfo) -> str:
    return " ".join(filter(None, (_type(field.annotation), ", ".join(_bounds(field)))))


def _type(annotation: Any) -> str:
    origin, parts = get_origin(annotation), [part for part in get_args(annotation) if part is not type(None)]
    if origin is Literal:
        return ", ".join(f"`{word}`" for word in parts)
    if origin in (Union, UnionType, Annotated):
        return _type(parts[0])
    if origin is tuple:
        return f"list of {_type(parts[0])}"
    if origin is dict:
        return "table"
    if issubclass(annotation, Enum):
        return ", ".join(f"`{getattr(member, 'word', member.value)}`" for member in annotation)
    return {bool: "`true`, `false`", int: "integer", float: "number", Path: "path"}.get(annotation, "text")


def _bounds(field: FieldInfo) -> Iterator[str]:
    """`0..1`, or `> 0`, of what pydantic was told."""
    told = {
        sign: getattr(each, sign) for each in field.metadata for sign in ("ge", "gt", "le", "lt") if hasattr(each, sign)
    }
    low, high = told.get("ge"), told.get("le")
    if low is not None and high is not None:
        yield f"{low:g}..{high:g}" if high < 10_000 else f"{low}..{high}"
        return
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    yield from (f"{signs[sign]} {bound:g}" for sign, bound in told.items() if bound is not None)


def _default(field: FieldInfo) -> str:
    default = field.get_default()
    if default is PydanticUndefined:
        return "**required**"
    if default is None:
        return "*empty*"
    if isinstance(default, Priority):
        default = default.word
    if isinstance(default, SecretStr):
        default = default.get_secret_value()
    if isinstance(default, float):
        return f"`{default:.10g}`"
    return f"`{json.dumps(list(default) if isinstance(default, tuple) else default, default=str)}`"


def written_anew(readme: str) -> str:
    for name, table in (("configuration", configuration()), ("metrics", metrics.table())):
        before, begin, rest = readme.partition(f"<!-- {name} -->")
        _, end, after = rest.partition(f"<!-- /{name} -->")
        readme = f"{before}{begin}\n{table}\n{end}{after}"
    return readme


def test_the_tables_of_configuration_and_metrics_are_those_of_the_code() -> None:
    assert text() == written_anew(text()), "run: python -m tests.test_readme"


def is_for_model_server(block: str) -> bool:
    return block.startswith("# lva-model.toml")


@pytest.mark.parametrize("block", [block for block in blocks("toml") if is_for_model_server(block)])
def test_each_example_for_the_model_server_loads(block: str, tmp_path: Path) -> None:
    (tmp_path / "lva-model.toml").write_text(block)
    config = local.load_config(tmp_path / "lva-model.toml")
    assert config.model.folder == tmp_path / "state/models/moondream2"


@pytest.mark.parametrize("block", [block for block in blocks("toml") if not is_for_model_server(block)])
def test_each_example_of_configuration_loads(block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    for name in (*SECRETS, "prod-ca-2021.crt"):
        (tmp_path / name).write_text("secret")
    (tmp_path / "config.toml").write_text(block)
    config = load_config(tmp_path / "config.toml")
    assert set(tomllib.loads(block)) <= config.model_fields_set


# ------------------------------------------------------------------------------------------------ querying

NOW = datetime.now(UTC)
PERSON = Detection("person", 0.9, Box(0.1, 0.2, 0.3, 0.8), 1)
VALUES: dict[str, Value] = {
    "people_count": 1,
    "objects": ("person",),
    "spatial_coordinates": (PERSON.box,),
    "scene_description": "A person crosses the yard.",
    "hazard": True,
}


def an_event(kind: EventKind, minutes_ago: float, **more: Any) -> Event:
    at = NOW - timedelta(minutes=minutes_ago)
    return Event(fresh_id(), "demo", "yard", kind, Priority.MEDIUM, "person appeared, 90% sure", at, at, **more)


def an_analysis(event: Event, provider: str, *attempts: Attempt) -> Analysis:
    def answer(question: Question) -> Answer:
        return Answer(question, VALUES[question.name], AnswerStatus.OK, 0.9, ConfidenceSource.DETECTOR)

    answers = tuple(answer(question) for question in DEFAULT_QUESTIONS)
    ended = event.captured_at + timedelta(seconds=1)
    told = Attempt(provider, None, "", 900.0)
    return Analysis(
        event.id, provider, provider, provider, answers, event.captured_at, ended, 900.0, attempts=(*attempts, told)
    )


def some_rows() -> dict[str, list[dict[str, Any]]]:
    """A person who came, was seen by the second provider, and left; one nobody could answer; one that is open; and
    one from before the clock was set."""
    came = an_event(EventKind.OBJECT_APPEARED, 20, detections=(PERSON,), label="person", track_id=1)
    left = an_event(EventKind.OBJECT_LEFT, 18, label="person", track_id=1, related_id=came.id)
    failed, still_open = (an_event(EventKind.OBJECT_APPEARED, minutes, label="person") for minutes in (15, 1))
    timeout = Attempt("station", Failure.TIMEOUT, "no answer within 30 s", 30_000.0)
    endings = (
        (came, EventOutcome.DONE, "answered by moondream"),
        (left, EventOutcome.DONE, "nothing to ask"),
        (failed, EventOutcome.FAILED, "station: timeout"),
    )
    booted = NOW - timedelta(hours=1)
    accepted = {
        event: Moment(event.captured_at, True, "a boot", (event.captured_at - booted).total_seconds())
        for event in (came, left, failed, still_open)
    }
    too_early = datetime(1970, 1, 1, 0, 0, 30, tzinfo=UTC)
    before_sync = replace(an_event(EventKind.CROWD_GATHERING, 0), captured_at=too_early, detected_at=too_early)
    accepted[before_sync] = Moment(too_early, False, "a boot", 30.0)
    gap = Gap(fresh_id(), "demo", "yard", NOW - timedelta(minutes=12), NOW - timedelta(minutes=10), "timeout")
    return {
        "events": [event_row(event, moment) for event, moment in accepted.items()],
        "analyses": [analysis_row(an_analysis(came, "moondream", timeout))],
        "outcomes": [outcome_row(event.id, how, why, NOW) for event, how, why in endings],
        "gaps": [gap_row(gap)],
        "dead_letters": [dead_letter_row("events", "22P05", "unsupported Unicode", "{}", NOW)],
        "alarms": [alarm_row("demo", "disk_full", "the disk is full", NOW)],
    }


async def insert(connection: asyncpg.Connection, rows_by_table: dict[str, list[dict[str, Any]]]) -> None:
    for table, rows in rows_by_table.items():
        await connection.execute(statement(f"insert_{table}"), json.dumps(rows))


def first_words(sql: str) -> str:
    return " ".join(sql.split()[:6])


@pytest.mark.parametrize("sql", [sql for sql in blocks("sql") if sql.startswith(("SELECT", "WITH"))], ids=first_words)
async def test_each_query_runs_and_finds_something(sql: str, connection: asyncpg.Connection) -> None:
    await insert(connection, some_rows())
    assert await connection.fetch(sql)


async def test_the_role_of_a_box_may_insert_and_nothing_else(connection: asyncpg.Connection) -> None:
    (role,) = (sql for sql in blocks("sql") if sql.startswith("CREATE ROLE"))
    rows = some_rows()
    transaction = connection.transaction()
    await transaction.start()
    try:
        await connection.execute(role)
        await connection.execute("SET LOCAL ROLE lva_box1")
        for _ in range(2):  # a row that is there already changes nothing
            await insert(connection, rows)
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.fetch("SELECT * FROM events")
    finally:
        await transaction.rollback()


def test_every_table_and_view_is_told() -> None:
    created = {
        name
        for file in (ROOT / "pipeline" / "sql").glob("[0-9]*.sql")
        for name in re.findall(r"^CREATE (?:TABLE|VIEW) (\w+)", file.read_text("utf-8"), re.MULTILINE)
    }
    assert set(rows_of(section("Querying"))) == created


# ---------------------------------------------------------------------------------------------------- logs


def logged() -> dict[str, set[str]]:
    """Every event name in the code, with the names of the fields that stand beside it."""
    found: dict[str, set[str]] = {FROM_LIBRARIES: {"message", "logger"}}
    for package in ("daemon", "pipeline", "providers"):
        for file in sorted((ROOT / package).rglob("*.py")):
            for call in ast.walk(ast.parse(file.read_text("utf-8"))):
                if isinstance(call, ast.Call) and _logs(call.func) and call.args:
                    for name in {name for argument in call.args[:2] for name in _names(argument)}:
                        fields = {keyword.arg for keyword in call.keywords if keyword.arg}
                        found[name] = found.get(name, set()) | fields
    return found


def _logs(function: ast.expr) -> bool:
    """`log.info`, `self._log.warning`, and so on; and `summary.tell`, which logs what it is given."""
    if not isinstance(function, ast.Attribute):
        return False
    logger = function.value
    word = logger.id if isinstance(logger, ast.Name) else logger.attr if isinstance(logger, ast.Attribute) else ""
    if function.attr == "tell":
        return word in ("self", "summary")
    return word in ("log", "_log") and function.attr in (
        "debug",
        "info",
        "warning",
        "error",
        "exception",
        "critical",
        "log",
    )


def _names(argument: ast.expr) -> set[str]:
    match argument:
        case ast.Constant(value=str(name)):
            return {name}
        case ast.IfExp(body=body, orelse=orelse):
            return _names(body) | _names(orelse)
        case ast.JoinedStr(values=parts):
            pattern = "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in parts)
            return ONLY_ON_A_VARIABLE[pattern]
    return set()


def test_every_event_of_the_log_is_told_and_none_that_is_not_there() -> None:
    assert FROM_LIBRARIES in (ROOT / "daemon" / "logs.py").read_text("utf-8")
    assert set(rows_of(section("Logs"))) == set(logged())


def test_every_field_of_the_log_is_told() -> None:
    told = rows_of(section("Logs"))
    missing = {
        name: sorted(left)
        for name, fields in logged().items()
        if (left := {field for field in fields if f"`{field}`" not in told[name]})
    }
    assert missing == {}


# ---------------------------------------------------------------------------------------------- commands


def commands(group: click.Group, path: str = "lva") -> Iterator[str]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            if command.invoke_without_command:
                yield f"{path} {name}"
            yield from commands(command, f"{path} {name}")
        else:
            yield f"{path} {name}"


def test_every_command_is_told() -> None:
    told = [words for words in rows_of(section("Command line")) if words.startswith("lva")]
    assert {re.match(r"lva( [a-z][a-z-]*)+", words)[0] for words in told} == set(commands(lva))  # type: ignore[index]


def test_every_fault_is_backed_by_a_test_that_exists() -> None:
    table = section("What happens when …")
    named = re.findall(r"`([\w/.]+\.py)::(\w+)` \|$", table, re.MULTILINE)
    assert len(named) == len(re.findall(r"^\| (?!when|---)", table, re.MULTILINE))
    for file, test in named:
        assert f"def {test}(" in (ROOT / "tests" / "faults" / file).read_text("utf-8")


def test_every_make_target_that_is_named_exists() -> None:
    targets = set(re.findall(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)[0].split())
    named = set(re.findall(r"`make ([a-z][a-z-]*)", text() + (ROOT / "CONTRIBUTING.md").read_text("utf-8")))
    assert named <= targets


def test_every_file_that_is_linked_exists() -> None:
    for document in (README, ROOT / "CONTRIBUTING.md"):
        links = re.findall(r"\]\(([^)#:]+)\)", document.read_text("utf-8"))
        assert [link for link in links if not (ROOT / link).exists()] == []


if __name__ == "__main__":
    README.write_text(written_anew(text()), "utf-8")
