"""A journal that has no room, for as long as a test wants."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial

from pipeline.journal import Journal
from pipeline.journal_file import JournalFile
from pipeline.journal_schema import JournalFullError

ANY_SIZE = 10**9


@asynccontextmanager
async def without_room(journal: Journal) -> AsyncIterator[None]:
    """SQLite itself refuses every page that the file has not got yet, and the outbox's last page is full too."""
    await journal._do(_allow_no_more_pages)
    for size in (1000, 100, 1):
        with suppress(JournalFullError):
            while True:
                await journal._do(partial(_fill, size), patient=False)
    yield
    await journal._do(_allow_pages)


def _allow_no_more_pages(file: JournalFile) -> None:
    assert file.connection.pragma("freelist_count") == 0, "it still has room"
    file.connection.pragma("max_page_count", file.connection.pragma("page_count"))


def _fill(size: int, file: JournalFile) -> None:
    file.connection.execute("INSERT INTO outbox (table_name, body) VALUES ('analyses', ?)", ("x" * size,))


def _allow_pages(file: JournalFile) -> None:
    file.connection.pragma("max_page_count", ANY_SIZE)
    file.connection.execute("DELETE FROM outbox WHERE body LIKE 'x%'")
