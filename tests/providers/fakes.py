"""A provider that answers by script, and a clock that only tests move."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from providers.answers import ok
from providers.asking import Asking, Usage
from providers.base import Analysis, Failure, Outcome, ProviderError, Request
from providers.guard import Guarded, Limits

Script = Callable[[Request], Awaitable[Outcome]]


@dataclass
class Clock:
    now_s: float = 1000.0

    def __call__(self) -> float:
        return self.now_s

    def pass_s(self, seconds: float) -> None:
        self.now_s += seconds


def an_answer(request: Request, provider: str = "fake", cost_usd: float | None = None) -> Analysis:
    answers = tuple(ok(question, True, "yes") for question in request.questions)
    return Asking(request).done(provider, answers, model="m", model_version="m1", usage=Usage(10, 2), cost_usd=cost_usd)


@dataclass
class Fake:
    """Fails as long as `failing` holds a failure, else answers."""

    name: str = "fake"
    failing: ProviderError | None = None
    script: Script | None = None
    probe_fails: ProviderError | None = None
    asked: list[Request] = field(default_factory=list)
    probes: int = 0
    cost_usd: float | None = None

    async def analyze(self, requests: Sequence[Request]) -> list[Outcome]:
        return [await self._ask(request) for request in requests]

    async def _ask(self, request: Request) -> Outcome:
        self.asked.append(request)
        if self.script is not None:
            return await self.script(request)
        return self.failing or an_answer(request, self.name, self.cost_usd)

    async def probe(self) -> str:
        self.probes += 1
        if self.probe_fails is not None:
            raise self.probe_fails
        return "fine"


def guarded(fake: Fake, clock: Clock, **limits: float) -> Guarded:
    bounds = Limits(
        timeout_s=limits.get("timeout_s", 30),
        pictures_at_once=int(limits.get("pictures_at_once", 4)),
        assumed_usd=limits.get("assumed_usd", 0),
    )
    return Guarded(fake, bounds, clock=clock, uniform=lambda low, high: (low + high) / 2)


def failed(failure: Failure, retry_after_s: float | None = None) -> ProviderError:
    return ProviderError(failure, "as told", retry_after_s=retry_after_s)
