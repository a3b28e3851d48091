"""From settings to a chain that can be asked, and its connections closed at the end."""

import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial

import aiohttp

from providers import moondream, openai
from providers import ollama as ollama_api
from providers.asking import Usage
from providers.base import Provider
from providers.budget import MoneyBudget, RetryBudget
from providers.calls import Calls
from providers.chain import ProviderChain
from providers.detections import Detections
from providers.guard import Guarded, Limits, Measure, unmeasured
from providers.http import JsonHttp, Judge, open_session
from providers.moondream import Moondream
from providers.ollama import Ollama
from providers.openai import OpenAI
from providers.settings import (
    CommonProviderSettings,
    DetectionsSettings,
    MoondreamSettings,
    OllamaSettings,
    OpenAISettings,
    ProviderSettings,
    provider_names,
)
from providers.tally import Tally

ASSUMED = Usage(tokens_in=4 * 735, tokens_out=4 * 10)
"""What a picture's questions are taken to use where the server doesn't tell: four calls of Moondream."""


class ConfiguredChain(ProviderChain):
    """A chain made of settings, which may be replaced by others while it is asked. `clock` is monotonic, in seconds."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        measure: Measure = unmeasured,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__((), clock)
        self._session = session
        self._measure = measure
        self._made: dict[str, tuple[ProviderSettings, Guarded]] = {}

    def apply(self, settings: Sequence[ProviderSettings]) -> None:
        """Providers whose settings are the same stay as they are, with their breaker, their pause and their budget.

        Of no settings, a chain that tells what the detector saw. Raises ValueError where two have one name.
        """
        settings = tuple(settings) or (DetectionsSettings(kind="detections"),)
        made: dict[str, tuple[ProviderSettings, Guarded]] = {}
        for name, one in zip(provider_names(settings), settings, strict=True):
            before = self._made.get(name)
            made[name] = before if before and before[0] == one else (one, self._guarded(name, one))
        self._made = made
        self.use([guarded for _, guarded in made.values()])

    def _guarded(self, name: str, settings: ProviderSettings) -> Guarded:
        if isinstance(settings, DetectionsSettings):
            return Guarded(Detections(name), measure=self._measure, clock=self._clock)
        tally = Tally()
        limits = Limits(
            timeout_s=settings.timeout_s,
            pictures_at_once=settings.pictures_at_once,
            assumed_usd=ASSUMED.cost_usd(settings) or 0.0,
        )
        calls = partial(_calls, settings=settings, tally=tally, clock=self._clock)
        provider = _provider(name, settings, self._session, calls)
        money = MoneyBudget(settings.usd_per_day)
        return Guarded(provider, limits, money=money, tally=tally, measure=self._measure, clock=self._clock)


@asynccontextmanager
async def open_providers(
    settings: Sequence[ProviderSettings],
    measure: Measure = unmeasured,
    clock: Callable[[], float] = time.monotonic,
) -> AsyncIterator[ConfiguredChain]:
    """The chain of the providers in this order. Connects to nobody yet. Raises ValueError as `apply` does."""
    async with open_session() as session:
        chain = ConfiguredChain(session, measure, clock)
        chain.apply(settings)
        yield chain


def _provider(
    name: str,
    settings: MoondreamSettings | OllamaSettings | OpenAISettings,
    session: aiohttp.ClientSession,
    calls: Callable[[JsonHttp], Calls],
) -> Provider:
    match settings:
        case MoondreamSettings():
            judge = moondream.judge_local if settings.dialect == "local" else moondream.judge
            http = _http(session, settings, moondream.base_url(settings), judge, moondream.headers(settings))
            return Moondream(name, settings, calls(http))
        case OllamaSettings():
            http = _http(session, settings, settings.base_url, ollama_api.judge, {})
            return Ollama(name, settings, calls(http))
        case OpenAISettings():
            http = _http(session, settings, settings.base_url, openai.judge, openai.headers(settings))
            return OpenAI(name, settings, calls(http))


def _http(
    session: aiohttp.ClientSession,
    settings: MoondreamSettings | OllamaSettings | OpenAISettings,
    base_url: str,
    judge: Judge,
    headers: dict[str, str],
) -> JsonHttp:
    return JsonHttp(
        session,
        base_url,
        timeout_s=settings.timeout_s,
        connect_timeout_s=settings.connect_timeout_s,
        headers=headers,
        secret="" if isinstance(settings, OllamaSettings) else settings.api_key.get_secret_value(),
        judge=judge,
    )


def _calls(http: JsonHttp, *, settings: CommonProviderSettings, tally: Tally, clock: Callable[[], float]) -> Calls:
    return Calls(
        http,
        max_attempts=settings.max_attempts,
        budget=RetryBudget(settings.retry_budget, clock),
        rate_per_s=settings.calls_per_s,
        tally=tally,
    )
