"""From settings to a chain that can be asked, and its connections closed at the end."""

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import aiohttp

from providers import moondream, openai
from providers import ollama as ollama_api
from providers.asking import Usage
from providers.base import Provider
from providers.budget import MoneyBudget, RetryBudget
from providers.calls import Calls
from providers.chain import ProviderChain
from providers.detections import Detections
from providers.guard import Guarded, Limits
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


@asynccontextmanager
async def open_providers(settings: Sequence[ProviderSettings]) -> AsyncIterator[ProviderChain]:
    """The chain of the providers in this order; of none, a chain that tells what the detector saw.

    Connects to nobody yet. Raises ValueError where two providers have one name.
    """
    settings = tuple(settings) or (DetectionsSettings(kind="detections"),)
    names = provider_names(settings)
    async with open_session() as session:
        yield ProviderChain([_guarded(n, one, session) for n, one in zip(names, settings, strict=True)])


def _guarded(name: str, settings: ProviderSettings, session: aiohttp.ClientSession) -> Guarded:
    if isinstance(settings, DetectionsSettings):
        return Guarded(Detections(name))
    tally = Tally()
    limits = Limits(
        timeout_s=settings.timeout_s,
        pictures_at_once=settings.pictures_at_once,
        assumed_usd=ASSUMED.cost_usd(settings) or 0.0,
    )
    provider = _provider(name, settings, session, tally)
    return Guarded(provider, limits, money=MoneyBudget(settings.usd_per_day), tally=tally)


def _provider(
    name: str,
    settings: MoondreamSettings | OllamaSettings | OpenAISettings,
    session: aiohttp.ClientSession,
    tally: Tally,
) -> Provider:
    match settings:
        case MoondreamSettings():
            judge = moondream.judge_local if settings.dialect == "local" else moondream.judge
            http = _http(session, settings, moondream.base_url(settings), judge, moondream.headers(settings))
            return Moondream(name, settings, _calls(http, settings, tally))
        case OllamaSettings():
            http = _http(session, settings, settings.base_url, ollama_api.judge, {})
            return Ollama(name, settings, _calls(http, settings, tally))
        case OpenAISettings():
            http = _http(session, settings, settings.base_url, openai.judge, openai.headers(settings))
            return OpenAI(name, settings, _calls(http, settings, tally))


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


def _calls(http: JsonHttp, settings: CommonProviderSettings, tally: Tally) -> Calls:
    return Calls(
        http,
        max_attempts=settings.max_attempts,
        budget=RetryBudget(settings.retry_budget, time.monotonic),
        rate_per_s=settings.calls_per_s,
        tally=tally,
    )
