"""The files of results: only ever appended to, and only if they are such files."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from daemon.commands.results import Csv, Form, JsonLines, NotResultsError, Row, appending, error_row
from providers.base import Question, QuestionKind

GATE = Question("gate", QuestionKind.BOOLEAN, "Is the gate open?")
SIGN = Question("sign", QuestionKind.TEXT, "What does the sign say?")
FORMS: list[Form] = [JsonLines([GATE, SIGN]), Csv([GATE, SIGN])]


def a_row(image: str, sign: str = "Stop") -> Row:
    answers = {
        "gate": {"value": True, "status": "ok", "confidence": None},
        "sign": {"value": sign, "status": "ok", "confidence": None},
    }
    return {"image": image, "status": "ok", "message": "", "provider": "p", "model": "m", "answers": answers}


def write(path: Path, form: Form, *rows: Row) -> set[str]:
    with appending(path, form) as (answered, file):
        for row in rows:
            file.write(form.line(row))
        return answered


@pytest.mark.parametrize("form", FORMS)
def test_what_was_answered_is_known_again(tmp_path: Path, form: Form) -> None:
    file = tmp_path / "rows"
    assert write(file, form, a_row("a, 1.jpg"), error_row("b.jpg", "broken"), a_row('c".jpg')) == set()
    assert write(file, form) == {"a, 1.jpg", 'c".jpg'}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("cut", [1, 5, 20])
def test_a_torn_last_line_is_cut_off(tmp_path: Path, form: Form, cut: int) -> None:
    file = tmp_path / "rows"
    write(file, form, a_row("a.jpg"), a_row("b.jpg"))
    file.write_bytes(file.read_bytes()[:-cut])
    assert write(file, form, a_row("b.jpg")) == {"a.jpg"}
    assert write(file, form) == {"a.jpg", "b.jpg"}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "content",
    [
        b"\xff\xd8\xff\xe0\x00\x10JFIF",
        b"some notes",
        b"some notes\n",
        b'{"name": "x"}\n',
        b"[1]\n",
        b"a,b\n1,2\n",
        b"\n",
    ],
)
def test_any_other_file_is_left_as_it_is(tmp_path: Path, form: Form, content: bytes) -> None:
    file = tmp_path / "rows"
    file.write_bytes(content)
    with pytest.raises(NotResultsError):
        write(file, form, a_row("a.jpg"))
    assert file.read_bytes() == content


def test_a_folder_or_device_is_no_file_of_results(tmp_path: Path) -> None:
    with pytest.raises(NotResultsError):
        write(tmp_path, FORMS[0])


def test_rows_of_other_questions_are_no_answers_to_these(tmp_path: Path) -> None:
    file = tmp_path / "rows"
    write(file, FORMS[0], a_row("a.jpg"))
    assert write(file, JsonLines([GATE])) == set()


def test_a_table_of_other_questions_is_left_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "rows"
    write(file, FORMS[1], a_row("a.jpg"))
    with pytest.raises(NotResultsError, match="these questions"):
        write(file, Csv([GATE]))


def test_what_a_sign_says_never_becomes_a_formula() -> None:
    assert "'=HYPERLINK" in FORMS[1].line(a_row("a.jpg", sign='=HYPERLINK("http://x")'))


@given(content=st.binary(max_size=60), form=st.sampled_from(FORMS))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_byte_of_a_foreign_file_is_ever_changed(tmp_path: Path, content: bytes, form: Form) -> None:
    file = tmp_path / "rows"
    file.write_bytes(content)
    try:
        write(file, form)
    except NotResultsError:
        assert file.read_bytes() == content
    else:
        assert not content or form.header()[:5].encode() in content or b'{"image": ' in content
