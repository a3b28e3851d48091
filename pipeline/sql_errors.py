"""What an error of the database means for the rows on their way: three classes, and one that depends.

The order of the tests matters: the exception's type first, then its SQLSTATE. The codes are those of the
PostgreSQL documentation, appendix A; which of them a box meets, and what helped, was tried on a real server.
"""

import ssl
from enum import StrEnum

import asyncpg

DATABASE_ERRORS = (
    OSError,
    TimeoutError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
)
"""All that a call to the database may raise for reasons outside this program, or for misuse of asyncpg."""

MESSAGE_LIMIT = 500


class ErrorClass(StrEnum):
    TRANSIENT = "transient"
    """The database is away or busy: the same rows pass later. Retried for ever."""
    ROW = "row"
    """A value of one row: that row never passes. Bisected, and only that row goes to the dead letters."""
    DRIFT = "drift"
    """ROW while other rows of the batch pass; CONFIGURATION when none does: then the schema is wrong."""
    CONFIGURATION = "configuration"
    """Someone has to put something right. All rows are kept, and sending goes on by itself once it is."""


class DatabaseUnusableError(Exception):
    """The database can't be used as it is; a person has to change something."""


UNPREPARED = frozenset({"42P05", "26000"})
READ_ONLY = "25006"
CANCELED = "57014"
TOO_MANY_CONNECTIONS = "53300"
CHECK_VIOLATION = "23514"

_DRIFT = frozenset({"23502", "23503", "23505", "23P01", "23000", "23001"})
_ROW_CLASSES = ("22", "54")
_CONFIGURATION_CLASSES = ("26", "28", "3D", "3F", "42", "44")
_KNOWN_TRANSIENT_CLASSES = ("08", "25", "40", "53", "55", "57", "58")

_ADVICE = {
    **dict.fromkeys(UNPREPARED, "a pooler in transaction mode: set statement_cache_size = 0 in [database]"),
    READ_ONLY: "the server is read-only: connecting anew, in case another one took over",
    "28P01": "the password is wrong",
    "28000": "the server does not let this user in",
    "3D000": "the database does not exist",
    "42501": "the role lacks a right, or row-level security refused the row",
    "42P01": "a table is missing: run `lva db migrate` as its owner",
    "42703": "a column is missing: run `lva db migrate` as its owner",
    "42P07": "a table of this name is there and not ours: give lva its own schema (?search_path=lva)",
    CHECK_VIOLATION: "no partition for this row: create one",
    "53100": "the server's disk is full",
}


def classify(error: BaseException) -> ErrorClass:
    """The class of anything in DATABASE_ERRORS, and of DatabaseUnusableError."""
    if isinstance(error, DatabaseUnusableError | ssl.SSLCertVerificationError):
        return ErrorClass.CONFIGURATION
    if isinstance(error, asyncpg.InterfaceError):
        return ErrorClass.TRANSIENT if "clos" in str(error) else ErrorClass.CONFIGURATION
    if isinstance(error, asyncpg.PostgresError):
        return _classify_state(sqlstate(error), constraint=bool(getattr(error, "constraint_name", None)))
    return ErrorClass.TRANSIENT


def _classify_state(state: str, *, constraint: bool) -> ErrorClass:
    if state == CHECK_VIOLATION:  # without a constraint's name it says that no partition takes the row
        return ErrorClass.ROW if constraint else ErrorClass.CONFIGURATION
    if state in _DRIFT:
        return ErrorClass.DRIFT
    if state.startswith(_ROW_CLASSES):
        return ErrorClass.ROW
    if state.startswith(_CONFIGURATION_CLASSES):
        return ErrorClass.CONFIGURATION
    return ErrorClass.TRANSIENT


def is_puzzling(error: BaseException) -> bool:
    """A transient error that nothing is known about (XX000 and the like): worth an alarm when it lasts."""
    if isinstance(error, asyncpg.PostgresError):
        return not sqlstate(error).startswith(_KNOWN_TRANSIENT_CLASSES)
    return isinstance(error, asyncpg.InternalClientError)


def sqlstate(error: BaseException) -> str:
    """The five characters, or "" where the error didn't come from the server."""
    return str(getattr(error, "sqlstate", None) or "")


def explain(error: BaseException) -> str:
    """One line for a person: the database's words, and what to do where that is known. Holds no password."""
    said = getattr(error, "message", None) or str(error)  # without its DETAIL, which may hold the row
    words = " ".join(said.split())[:MESSAGE_LIMIT] or _unsaid(error)
    advice = _ADVICE.get(sqlstate(error))
    return f"{words} ({advice})" if advice else words


def _unsaid(error: BaseException) -> str:
    return "no answer in time" if isinstance(error, TimeoutError) else type(error).__name__
