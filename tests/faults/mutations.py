"""What a box must not do, done on purpose: each takes one reason away for which nothing is lost, in the real code.

A suite that does not notice is worth nothing; `test_mutations.py` sees that it does.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any
from uuid import UUID

from pipeline import sql_errors, store
from pipeline.journal import Accepted, Journal
from pipeline.journal_file import Ending, JournalFile
from pipeline.reconciler import Reconciler
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
    """First the event goes; how it ended is written a moment later."""
    finish_event, finish = JournalFile.finish, Journal.finish
    outcomes: dict[UUID, list[str]] = {}

    def finish_without_outcome(file: JournalFile, ending: Ending) -> bool:
        if not finish_event(file, ending):
            return False
        last = "(SELECT max(seq) FROM outbox)"
        [[*outcomes[ending.event_id]]] = file.connection.execute(
            f"DELETE FROM outbox WHERE seq={last} RETURNING table_name, body"
        )
        return True

    async def finish_later(journal: Journal, endings: Sequence[Ending]) -> list[bool]:
        finished = await finish(journal, endings)
        await asyncio.sleep(0.02)
        for ending in endings:
            await journal._do(partial(_send, outcomes.pop(ending.event_id, None)))
        return finished

    def _send(row: list[str] | None, file: JournalFile) -> None:
        if row:
            file._send(*row)

    _replace(JournalFile, "finish", finish_without_outcome)
    _replace(Journal, "finish", finish_later)


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


def no_reconciler() -> None:
    """What memory has lost stays lost until the next start."""

    async def look_never(reconciler: Reconciler, every_s: float = 0.0) -> None:
        await asyncio.Event().wait()

    _replace(Reconciler, "run", look_never)


MUTATIONS: dict[str, Callable[[], None]] = {
    mutation.__name__: mutation
    for mutation in (
        outbox_deleted_before_the_reply,
        no_on_conflict,
        accepted_before_the_commit,
        finished_in_two_transactions,
        leases_not_returned,
        a_missing_right_is_the_rows_fault,
        no_reconciler,
    )
}
