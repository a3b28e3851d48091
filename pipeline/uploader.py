"""From the journal's outbox to the database: in batches, each row until it has arrived, whatever happens."""

import asyncio
import json
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Never, Protocol
from uuid import UUID

import structlog

from pipeline.progress import Progress
from pipeline.sql_errors import (
    CANCELED,
    DATABASE_ERRORS,
    READ_ONLY,
    TOO_MANY_CONNECTIONS,
    DatabaseUnusableError,
    ErrorClass,
    classify,
    explain,
    is_puzzling,
    sqlstate,
)
from pipeline.stages import Stages
from pipeline.store import OutboxRow as OutboxRow
from pipeline.store import Store

PUZZLING_ALARM_AFTER = 10

log = structlog.get_logger()


class Outbox(Protocol):
    """Rows that wait for the database, oldest first."""

    async def wait_outbox(self) -> None:
        """Return when there is at least one row."""
        ...

    async def outbox(self, limit_rows: int, limit_bytes: int) -> list[OutboxRow]:
        """The oldest rows, at least one if there is any."""
        ...

    async def uploaded(self, seqs: Sequence[int]) -> None:
        """Forget these: the database has them."""
        ...

    async def dead_letter(self, row: OutboxRow, sqlstate: str, reason: str) -> None:
        """Move the row aside, and put a row for `dead_letters` in the outbox, in one commit."""
        ...


@dataclass(frozen=True, slots=True)
class Pauses:
    """How long to wait before trying again."""

    transient_first_s: float = 0.5
    transient_max_s: float = 60.0
    configuration_first_s: float = 30.0
    configuration_max_s: float = 300.0

    def after(self, error: BaseException, failures: int) -> float:
        """`failures` in a row, this one included. Jitter, so that many boxes don't come back at once."""
        if classify(error) is ErrorClass.TRANSIENT:
            patience = 8 if sqlstate(error) == TOO_MANY_CONNECTIONS else 1
            longest = self.transient_first_s * patience * 2.0 ** min(failures, 16)
            return random.uniform(0.1, 1.0) * min(longest, self.transient_max_s)
        longest = self.configuration_first_s * 2.0 ** min(failures - 1, 16)
        return random.uniform(0.9, 1.0) * min(longest, self.configuration_max_s)


@dataclass(slots=True)
class UploadState:
    """What a status page may tell. `trouble` is empty while rows pass."""

    uploaded: int = 0
    dead_lettered: int = 0
    failures: int = 0
    trouble: str = ""
    trouble_class: ErrorClass | None = None
    trouble_since_s: float = 0.0
    """By the clock that goes on while the machine sleeps; says something only while there is trouble."""


@dataclass(frozen=True, slots=True)
class _Refused:
    row: OutboxRow
    error: BaseException


class SchemaDriftError(DatabaseUnusableError):
    """Every row breaks a rule of the database: the schema is not the one that these rows are for."""


class Uploader:
    """Sends rows in order until it is cancelled, at any moment: what had no reply is sent again."""

    def __init__(
        self,
        outbox: Outbox,
        store: Store,
        *,
        batch_rows: int = 200,
        batch_bytes: int = 2_000_000,
        pauses: Pauses | None = None,
        stages: Stages | None = None,
    ) -> None:
        self.state = UploadState()
        self.progress = Progress()
        self._outbox = outbox
        self._store = store
        self._stages = stages or Stages()
        self._most_rows = self._batch_rows = batch_rows
        self._batch_bytes = batch_bytes
        self._pauses = pauses or Pauses()

    async def run(self) -> Never:
        while True:
            await self._outbox.wait_outbox()
            rows = await self._next_batch()
            if rows and (error := await self._send(rows)):
                await asyncio.sleep(self._pauses.after(error, self.state.failures))

    async def flush(self) -> bool:
        """Send all that waits, once, for an orderly end; False at the first failure. Not while `run` runs."""
        while rows := await self._next_batch():
            if await self._send(rows):
                return False
        return True

    async def _next_batch(self) -> list[OutboxRow]:
        return await self._outbox.outbox(self._batch_rows, self._batch_bytes)

    async def _send(self, rows: list[OutboxRow]) -> BaseException | None:
        """None when they arrived or were put aside, else what stood in the way."""
        try:
            await self._settle(await self._deliver(rows), len(rows))
        except (*DATABASE_ERRORS, DatabaseUnusableError) as error:
            await self._on_failure(error)
            return error
        self._on_success()
        return None

    async def _deliver(self, rows: list[OutboxRow]) -> list[_Refused]:
        """Send the rows; where some are to blame themselves, find them by halving, and return them."""
        began_s = time.monotonic()
        try:
            with self.progress.at_work():  # not while the journal has no room: that is the disk's doing
                await self._store.insert(rows)
        except DATABASE_ERRORS as error:
            if classify(error) not in (ErrorClass.ROW, ErrorClass.DRIFT):
                raise
            if len(rows) == 1:
                return [_Refused(rows[0], error)]
            middle = len(rows) // 2
            return await self._deliver(rows[:middle]) + await self._deliver(rows[middle:])
        self._measure(rows, time.monotonic() - began_s)
        await self._outbox.uploaded([row.seq for row in rows])
        self.state.uploaded += len(rows)
        return []

    def _measure(self, rows: list[OutboxRow], seconds: float) -> None:
        self._stages.uploaded(seconds)
        for row in rows:
            if row.table == "outcomes":
                self._stages.stored(UUID(json.loads(row.body)["event_id"]))

    async def _settle(self, refused: list[_Refused], sent: int) -> None:
        """Put the refused rows aside, but never because of a rule that no row of the batch could follow."""
        drift = [each for each in refused if classify(each.error) is ErrorClass.DRIFT]
        nothing_passed = len(refused) == sent
        for each in refused:
            if not (nothing_passed and each in drift):
                await self._put_aside(each.row, each.error)
        if nothing_passed and drift:
            raise SchemaDriftError(f"every row of a batch: {explain(drift[0].error)}")

    async def _put_aside(self, row: OutboxRow, error: BaseException) -> None:
        reason = explain(error)
        log.error("upload.dead_letter", table=row.table, seq=row.seq, sqlstate=sqlstate(error), reason=reason)
        self.state.dead_lettered += 1
        if row.table == "dead_letters":  # the journal has what it tells of: no letter about a letter
            await self._outbox.uploaded([row.seq])
        else:
            await self._outbox.dead_letter(row, sqlstate(error), reason)

    async def _on_failure(self, error: BaseException) -> None:
        self.state.failures += 1
        kind = classify(error)
        if kind is ErrorClass.CONFIGURATION or sqlstate(error) == READ_ONLY:
            await self._store.start_afresh()
        if sqlstate(error) == CANCELED or isinstance(error, TimeoutError):
            self._batch_rows = max(1, self._batch_rows // 2)
        self._tell(error, kind)
        if not self.state.trouble:
            self.state.trouble_since_s = time.clock_gettime(time.CLOCK_BOOTTIME)
        self.state.trouble, self.state.trouble_class = explain(error), kind

    def _tell(self, error: BaseException, kind: ErrorClass) -> None:
        facts = {"error": type(error).__name__, "sqlstate": sqlstate(error), "reason": explain(error)}
        if kind is ErrorClass.CONFIGURATION:
            log.error("upload.refused", failures=self.state.failures, **facts)
        elif is_puzzling(error) and self.state.failures == PUZZLING_ALARM_AFTER:
            log.error("upload.keeps_failing", failures=self.state.failures, **facts)
        elif self.state.trouble_class is not kind:
            log.warning("upload.interrupted", **facts)

    def _on_success(self) -> None:
        if self.state.trouble:
            log.info("upload.resumed", after_failures=self.state.failures)
        self.state.failures, self.state.trouble, self.state.trouble_class = 0, "", None
        self._batch_rows = min(self._most_rows, self._batch_rows * 2)
