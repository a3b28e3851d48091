"""What a box must not do, done on purpose: each takes one reason away for which nothing is lost, in the real code.

A suite that does not notice is worth nothing; `test_mutations.py` sees that it does.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from pipeline import sql_errors, store
from pipeline.journal import Accepted, Journal
from pipeline.journal_file import Ending, JournalFile
from pipeline.sql import statement
from pipeline.store import OutboxRow


def outbox_deleted_before_the_reply() -> None:
    """Rows are forgotten as soon as they are read."""
    read: Callable[..., Awaitable[list[OutboxRow]]] = Journal.outbox

    async def read_and_forget(journal: Journal, limit_rows: int, limit_bytes: int) -> list[OutboxRow]:
        rows = await read(journal, limit_rows, limit_bytes)
        await journal.uploaded([row.seq for row in rows])
        return rows

    _replace(Journal, "outbox", read_and_forget)


def no_on_conflict() -> None:
    """A row that is there already is an error."""
    _replace(store, "statement", lambda name: statement(name).replace("ON CONFLICT DO NOTHING", ""))


def accepted_before_the_commit() -> None:
    """The journal says yes, and then writes."""
    accept = Journal.accept

    async def promise(journal: Journal, *arguments: Any, **options: Any) -> Accepted:
        _unfinished.add(task := asyncio.ensure_future(accept(journal, *arguments, **options)))
        task.add_done_callback(_unfinished.discard)
        return Accepted(True)

    _replace(Journal, "accept", promise)


_unfinished: set[asyncio.Future[Accepted]] = set()


def finished_in_two_transactions() -> None:
    """First the event goes, then comes how it ended."""
    finish = JournalFile.finish

    def finish_in_two(file: JournalFile, ending: Ending) -> bool:
        if not finish(file, ending):
            return False
        db = file.connection
        [[seq, *outcome]] = db.execute("SELECT seq, table_name, body FROM outbox ORDER BY seq DESC LIMIT 1").fetchall()
        db.execute("DELETE FROM outbox WHERE seq=?", (seq,))
        db.execute("COMMIT")
        db.execute("BEGIN IMMEDIATE")
        db.execute("INSERT INTO outbox (table_name, body) VALUES (?,?)", outcome)
        return True

    _replace(JournalFile, "finish", finish_in_two)


def leases_not_returned() -> None:
    """What a worker had when the box died stays with a worker that is no more."""
    _replace(JournalFile, "recover", lambda file: None)


def a_missing_right_is_the_rows_fault() -> None:
    """Refused for want of a grant, a row goes to the dead letters."""
    _replace(sql_errors, "_ROW_CLASSES", (*sql_errors._ROW_CLASSES, "42"))


def _replace(owner: object, name: str, what: object) -> None:
    """In this process, for good."""
    assert hasattr(owner, name), f"{owner} has no {name} any more: the mutation has to follow the code"
    setattr(owner, name, what)


MUTATIONS: dict[str, Callable[[], None]] = {
    mutation.__name__: mutation
    for mutation in (
        outbox_deleted_before_the_reply,
        no_on_conflict,
        accepted_before_the_commit,
        finished_in_two_transactions,
        leases_not_returned,
        a_missing_right_is_the_rows_fault,
    )
}
