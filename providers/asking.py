"""What every dialect does around its own call: a request at a time, at once, with each outcome in its
place."""

import asyncio
import base64
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from uuid import UUID

from providers.base import (
    Analysis,
    Answer,
    Failure,
    Outcome,
    ProviderError,
    Question,
    QuestionKind,
    Request,
    harmless,
)
from providers.settings import CommonProviderSettings

PROBE_JPEG = base64.b64decode(
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDABALDA4MChAODQ4SERATGCgaGBYWGDEjJR0oOjM9PDkzODdASFxOQERXRTc4UG1RV19i"
    "Z2hnPk1xeXBkeFxlZ2P/2wBDARESEhgVGC8aGi9jQjhCY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2Nj"
    "Y2NjY2NjY2P/wAARCABAAEADASIAAhEBAxEB/8QAHwAAAQUBAQEBAQEAAAAAAAAAAAECAwQFBgcICQoL/8QAtRAAAgEDAwIEAwUF"
    "BAQAAAF9AQIDAAQRBRIhMUEGE1FhByJxFDKBkaEII0KxwRVS0fAkM2JyggkKFhcYGRolJicoKSo0NTY3ODk6Q0RFRkdISUpTVFVW"
    "V1hZWmNkZWZnaGlqc3R1dnd4eXqDhIWGh4iJipKTlJWWl5iZmqKjpKWmp6ipqrKztLW2t7i5usLDxMXGx8jJytLT1NXW19jZ2uHi"
    "4+Tl5ufo6erx8vP09fb3+Pn6/8QAHwEAAwEBAQEBAQEBAQAAAAAAAAECAwQFBgcICQoL/8QAtREAAgECBAQDBAcFBAQAAQJ3AAEC"
    "AxEEBSExBhJBUQdhcRMiMoEIFEKRobHBCSMzUvAVYnLRChYkNOEl8RcYGRomJygpKjU2Nzg5OkNERUZHSElKU1RVVldYWVpjZGVm"
    "Z2hpanN0dXZ3eHl6goOEhYaHiImKkpOUlZaXmJmaoqOkpaanqKmqsrO0tba3uLm6wsPExcbHyMnK0tPU1dbX2Nna4uPk5ebn6Onq"
    "8vP09fb3+Pn6/9oADAMBAAIRAxEAPwDpKKKKACiiigAooooAKKKKACiiigClqWopYx4GGmYfKv8AU+1c9NqV5NIXM7r6BDtA/KjV"
    "Jnm1CYufusUA9AOKq1zTm2z28Ph4Qgm1qWIr66hK7LiQBRgAtkD8DxW/peqrefu5QqTDoB0Ye1cxT4JngmSWM4ZDkUozaZVbDwqR"
    "21O1ooorqPCCiiigDj7+Iw306bQoDkgDsDyP0qvXT6tpv2xBLFxMgwATww9K5uaGSCQpMjIw7EVyzi0z3cPWjUgu4ynRo0kiogyz"
    "EAD1NCI8jhI1ZmPQKMk1v6RpTW7/AGi44lGQqg/d9z/n/wCsoxcmVWrRpRu9zWVQqhVAAAwAO1LRRXWeAFFFFABRRRQAiqFUKoAA"
    "GAB2paKKACiiigD/2Q=="
)
"""A red disc on grey, 64 by 64: a picture that any model can say something about, for next to nothing."""

PROBE = Request(
    event_id=UUID(int=0),
    jpeg=PROBE_JPEG,
    questions=(Question("disc", QuestionKind.BOOLEAN, "Is there a red disc?"),),
)


MAX_TOKENS = 2**31 - 1
"""What a column of the database holds."""

MAX_WORD = 200

CONTENT_FAILURES = frozenset((Failure.INVALID_OUTPUT, Failure.TRUNCATED, Failure.EMPTY))
"""Failures of what was said: somebody was there and said something."""


async def ask_probe(ask: Callable[[Request], Awaitable[Analysis]]) -> str:
    """Model and version of who answers. An answer that can't be read is told, and is an answer all the
    same."""
    try:
        analysis = await ask(PROBE)
    except ProviderError as error:
        if error.failure not in CONTENT_FAILURES:
            raise
        return f"answers, though not usably ({error})"
    if analysis.model_version.startswith(analysis.model):
        return analysis.model_version
    return f"{analysis.model} {analysis.model_version}".strip()


async def ask_each(ask: Callable[[Request], Awaitable[Analysis]], requests: Sequence[Request]) -> list[Outcome]:
    """All requests at the same time; who calls decides how many those are."""

    async def outcome(request: Request) -> Outcome:
        try:
            return await ask(request)
        except ProviderError as error:
            return error

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(outcome(request), name=f"ask {request.event_id}") for request in requests]
    return [task.result() for task in tasks]


def as_base64(jpeg: bytes) -> str:
    return base64.b64encode(jpeg).decode("ascii")


def as_data_uri(jpeg: bytes) -> str:
    return "data:image/jpeg;base64," + as_base64(jpeg)


def tokens(value: object) -> int | None:
    """A number of tokens as a server tells it; None for anything that is no such number."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_TOKENS else None


def word(value: object) -> str:
    """A name as a server tells it, or nothing."""
    return harmless(" ".join(value[:MAX_WORD].split())) if isinstance(value, str) else ""


def require_string(value: object, what: str) -> str:
    if not isinstance(value, str):
        raise ProviderError(Failure.INVALID_OUTPUT, f"no {what} in the reply")
    if not value.strip():
        raise ProviderError(Failure.EMPTY, f"an empty {what}")
    return value


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one or more calls; None where any of them told none."""

    tokens_in: int | None = 0
    tokens_out: int | None = 0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(_sum(self.tokens_in, other.tokens_in), _sum(self.tokens_out, other.tokens_out))

    def cost_usd(self, settings: CommonProviderSettings) -> float | None:
        """None where the price or the tokens aren't known."""
        if not settings.is_priced or self.tokens_in is None or self.tokens_out is None:
            return None
        return (
            self.tokens_in * settings.usd_per_million_tokens_in + self.tokens_out * settings.usd_per_million_tokens_out
        ) / 1e6


def _sum(one: int | None, other: int | None) -> int | None:
    return None if one is None or other is None else one + other


@dataclass(frozen=True, slots=True)
class Asking:
    """One request under way: knows when it began, and makes the analysis at its end."""

    request: Request
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    started_s: float = field(default_factory=time.monotonic)

    def done(
        self,
        provider: str,
        answers: tuple[Answer, ...],
        *,
        model: str,
        model_version: str,
        usage: Usage | None = None,
        cost_usd: float | None = None,
        degraded: bool = False,
    ) -> Analysis:
        usage = usage or Usage(None, None)
        return Analysis(
            event_id=self.request.event_id,
            provider=provider,
            model=model,
            model_version=model_version,
            answers=answers,
            started_at=self.started_at,
            completed_at=datetime.now(UTC),
            processing_time_ms=(time.monotonic() - self.started_s) * 1000,
            degraded=degraded,
            tokens_in=usage.tokens_in,
            tokens_out=usage.tokens_out,
            cost_usd=cost_usd,
        )
