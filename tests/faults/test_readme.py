"""The table of cases against the tests: `python -m tests.faults.test_readme` writes its last column anew.

A test says which cases it is about at the start of its docstring, or of its module's: "Case 14.", "Cases 38, 39:".
"""

import ast
import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

README = Path(__file__).with_name("README.md")
TESTS = Path(__file__).parents[1]
CASES = range(1, 64)

_ABOUT = re.compile(r"Cases? (\d+(?:(?:, | and )\d+)*)\b")
_ROW = re.compile(r"^\| (\d+) \| (.+) \| (.+) \| (.*) \|$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Named:
    """A test that says which cases it is about."""

    file: str
    name: str
    is_long: bool
    """Only in `make faults`."""
    cases: tuple[int, ...]


def named() -> list[Named]:
    return [test for file in sorted(TESTS.rglob("test_*.py")) for test in _named_in(file)]


def _named_in(file: Path) -> Iterator[Named]:
    module = ast.parse(file.read_text())
    of_module = _cases(module)
    for test in module.body:
        if isinstance(test, ast.FunctionDef | ast.AsyncFunctionDef) and test.name.startswith("test_"):
            is_long = any("faults" in ast.unparse(decorator) for decorator in test.decorator_list)
            yield Named(file.relative_to(TESTS).as_posix(), test.name, is_long, _cases(test) or of_module)


def _cases(node: ast.Module | ast.FunctionDef | ast.AsyncFunctionDef) -> tuple[int, ...]:
    about = _ABOUT.match(ast.get_docstring(node) or "")
    return tuple(map(int, re.findall(r"\d+", about[1]))) if about else ()


def cell(tests: list[Named]) -> str:
    """By file; what runs only in `make faults` in italics. Without any: the reason must stand before it."""
    by_file: defaultdict[str, list[str]] = defaultdict(list)
    for test in tests:
        by_file[test.file].append(f"*{test.name}*" if test.is_long else test.name)
    return "<br>".join(f"`{file}` {', '.join(names)}" for file, names in by_file.items())


def with_tests(text: str) -> str:
    """The table with its last column as the docstrings say."""
    tests = named()

    def row(found: re.Match[str]) -> str:
        number, fault, required, _ = found.groups()
        return f"| {number} | {fault} | {required} | {cell([test for test in tests if int(number) in test.cases])} |"

    return _ROW.sub(row, text)


def test_the_table_names_the_tests_that_there_are() -> None:
    assert README.read_text() == with_tests(README.read_text()), "run: python -m tests.faults.test_readme"


def test_each_case_has_a_row_and_each_row_a_test_or_a_reason() -> None:
    rows = {int(number): (required, tests) for number, _, required, tests in _ROW.findall(README.read_text())}
    assert list(rows) == list(CASES)
    assert [number for number, (required, tests) in rows.items() if not tests and "Not here:" not in required] == []


def test_no_test_is_about_a_case_that_there_is_not() -> None:
    assert {case for test in named() for case in test.cases} <= set(CASES)


if __name__ == "__main__":
    README.write_text(with_tests(README.read_text()))
    sys.exit(0)
