"""Results of `lva analyze`: one row per picture, written as soon as it is there, and read again to go on
later.

A file is only ever appended to, after every row in it was seen to be such a row. The only thing ever cut off
is a last line that a crash left unfinished.
"""

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Protocol

from providers.base import Analysis, AnswerStatus, Outcome, Question, as_json

JSON_START = '{"image": '
CSV_FIXED = ("image", "status", "message", "provider", "model", "processing_time_ms")
FORMULA_STARTS = ("=", "+", "-", "@")


class NotResultsError(Exception):
    """A file that is not such a results file, and so is left as it is; the message says why."""


Row = dict[str, Any]


def row_of(image: str, outcome: Outcome) -> Row:
    """status is ok, degraded (nobody looked at the picture itself) or error."""
    if not isinstance(outcome, Analysis):
        return error_row(image, str(outcome))
    return {
        "image": image,
        "status": "degraded" if outcome.degraded else "ok",
        "message": "",
        "provider": outcome.provider,
        "model": outcome.model_version or outcome.model,
        "processing_time_ms": round(outcome.processing_time_ms, 1),
        "answers": {
            answer.question.name: {
                "value": as_json(answer.value),
                "status": str(answer.status),
                "confidence": answer.confidence,
            }
            for answer in outcome.answers
        },
        "attempts": [
            {"provider": one.provider, "failure": one.failure, "message": one.message}
            for one in outcome.attempts
            if one.failure is not None
        ],
    }


def error_row(image: str, message: str) -> Row:
    return {"image": image, "status": "error", "message": message, "answers": {}}


class Form(Protocol):
    """How rows stand in a file."""

    def header(self) -> str: ...

    def line(self, row: Row) -> str: ...

    def answered(self, text: str) -> set[str]:
        """The pictures that whole lines of an earlier run answered. Raises NotResultsError."""
        ...


class JsonLines:
    """One JSON object a line. Rows of other questions are no answers to these, so their pictures are asked
    again."""

    def __init__(self, questions: Sequence[Question]) -> None:
        self._names = {question.name for question in questions}

    def header(self) -> str:
        return ""

    def line(self, row: Row) -> str:
        return json.dumps(row) + "\n"

    def answered(self, text: str) -> set[str]:
        rows = [_json_row(line) for line in text.splitlines()]
        done = {row["image"] for row in rows if row["status"] == "ok" and set(row["answers"]) == self._names}
        return done


class Csv:
    """A table with a column per question; lists as JSON, an answer that nobody gave as nothing."""

    def __init__(self, questions: Sequence[Question]) -> None:
        self._names = [question.name for question in questions]
        self._columns = [*CSV_FIXED, *(f"answer_{name}" for name in self._names)]

    def header(self) -> str:
        return _csv_line(self._columns)

    def line(self, row: Row) -> str:
        cells = [_cell(row.get(name)) for name in CSV_FIXED]
        return _csv_line([*cells, *(_cell(_value(row["answers"].get(name))) for name in self._names)])

    def answered(self, text: str) -> set[str]:
        rows = list(csv.reader(io.StringIO(text, newline="")))
        if rows and rows[0] != self._columns:
            raise NotResultsError("its first line is not that of results of these questions")
        return {cells[0] for cells in rows[1:] if len(cells) > 1 and cells[1] == "ok"}


@contextmanager
def appending(path: Path, form: Form) -> Iterator[tuple[set[str], IO[str]]]:
    """What the file already answers, and the file to write on. Raises NotResultsError before anything is
    changed."""
    text = _read(path)
    whole = text[: text.rfind("\n") + 1]
    torn = text[len(whole) :]
    if torn and not whole and not torn.startswith(form.header()[:5] or JSON_START):
        raise NotResultsError("it holds something else")
    answered = form.answered(whole)
    with path.open("a", encoding="utf-8", errors="surrogateescape", newline="") as file:
        if torn:
            file.truncate(len(whole.encode("utf-8", "surrogateescape")))
        if not whole:
            file.write(form.header())
        yield answered, file


def _read(path: Path) -> str:
    if not path.exists():
        return ""
    if not path.is_file():
        raise NotResultsError("it is no regular file")
    try:
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise NotResultsError("it is no text") from error


def _json_row(line: str) -> Row:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise NotResultsError("it has a line that is no JSON") from error
    if not isinstance(row, dict) or not {"image", "status", "answers"} <= set(row):
        raise NotResultsError("it has a line that is no row of results")
    return row


def _value(answer: Mapping[str, Any] | None) -> Any:
    return answer["value"] if answer and answer["status"] == AnswerStatus.OK else None


def _cell(value: Any) -> str:
    """A value as a spreadsheet may have it: never a formula."""
    if value is None:
        return ""
    if isinstance(value, bool | list | dict):
        return json.dumps(value)
    text = str(value)
    return "'" + text if isinstance(value, str) and text.startswith(FORMULA_STARTS) else text


def _csv_line(cells: Sequence[str]) -> str:
    written = io.StringIO(newline="")
    csv.writer(written, lineterminator="\n").writerow(cells)
    return written.getvalue()
