"""What each error of the database means for the rows on their way: the classes that a real server taught."""

import ssl

import asyncpg
import pytest

from pipeline.sql_errors import DatabaseUnusableError, ErrorClass, classify, explain, is_puzzling

TRANSIENT = (
    "08000", "08003", "08006", "25006", "25P03", "40001", "40P01", "53000", "53100", "53200", "53300", "53400",
    "55P03", "57014", "57P01", "57P02", "57P03", "58030", "XX000", "XX001", "XX002", "P0001",
)  # fmt: skip
ROW = ("22000", "22001", "22003", "22021", "22P02", "22P05", "54000")
DRIFT = ("23502", "23503", "23505", "23P01")
CONFIGURATION = (
    "26000", "28000", "28P01", "3D000", "3F000", "42501", "42601", "42703", "42804", "42P01", "42P05", "42P10", "44000",
)  # fmt: skip


def from_the_server(sqlstate: str, **fields: str) -> asyncpg.PostgresError:
    error: asyncpg.PostgresError = asyncpg.PostgresError.new({"C": sqlstate, "M": "as told", **fields})
    return error


@pytest.mark.parametrize(
    ("sqlstate", "kind"),
    [
        *((state, ErrorClass.TRANSIENT) for state in TRANSIENT),
        *((state, ErrorClass.ROW) for state in ROW),
        *((state, ErrorClass.DRIFT) for state in DRIFT),
        *((state, ErrorClass.CONFIGURATION) for state in CONFIGURATION),
    ],
)
def test_a_state_of_the_server_has_its_class(sqlstate: str, kind: ErrorClass) -> None:
    assert classify(from_the_server(sqlstate)) is kind


def test_a_check_that_has_a_name_is_the_rows_fault_and_without_one_a_partition_is_missing() -> None:
    assert classify(from_the_server("23514", n="events_priority")) is ErrorClass.ROW
    assert classify(from_the_server("23514")) is ErrorClass.CONFIGURATION


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ConnectionRefusedError(111, "refused"), ErrorClass.TRANSIENT),
        (TimeoutError(), ErrorClass.TRANSIENT),
        (ssl.SSLError("wrong version number"), ErrorClass.TRANSIENT),
        (ssl.SSLCertVerificationError("certificate has expired"), ErrorClass.CONFIGURATION),
        (asyncpg.InterfaceError("connection is closed"), ErrorClass.TRANSIENT),
        (asyncpg.InterfaceError("the server expects 1 argument, 2 were passed"), ErrorClass.CONFIGURATION),
        (asyncpg.InternalClientError("unexpected message"), ErrorClass.TRANSIENT),
        (DatabaseUnusableError("no such table"), ErrorClass.CONFIGURATION),
    ],
)
def test_what_did_not_come_from_the_server_has_its_class(error: Exception, kind: ErrorClass) -> None:
    assert classify(error) is kind


def test_only_what_nothing_is_known_about_is_puzzling() -> None:
    assert is_puzzling(from_the_server("XX000"))
    assert is_puzzling(asyncpg.InternalClientError("unexpected message"))
    assert not is_puzzling(from_the_server("53100"))
    assert not is_puzzling(ConnectionResetError())


def test_an_explanation_says_what_to_do_and_nothing_of_the_row() -> None:
    refused = from_the_server("42501", M="permission\n denied", D="Failing row contains (secret).")
    assert explain(refused) == "permission denied (the role lacks a right, or row-level security refused the row)"
    assert explain(TimeoutError()) == "no answer in time"
    assert explain(ConnectionResetError()) == "ConnectionResetError"
    assert len(explain(from_the_server("22001", M="x" * 10_000))) < 1000
