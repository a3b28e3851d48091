"""The same server, asked in each of its dialects."""

from contextlib import AbstractAsyncContextManager
from typing import Any

from providers.open import ConfiguredChain, open_providers
from providers.settings import MoondreamSettings, OllamaSettings, OpenAISettings, ProviderSettings
from tests.faults.provider import FakeProvider

DIALECTS = ("openai", "ollama", "moondream")


def settings_for(dialect: str, url: str, **more: Any) -> ProviderSettings:
    """A provider of this dialect at that address; it loses its patience soon."""
    usual: dict[str, Any] = {"name": dialect, "timeout_s": 5, "concurrency": 8} | more
    match dialect:
        case "openai":
            return OpenAISettings(kind="openai", base_url=url + "/v1", model="fake", **usual)
        case "ollama":
            return OllamaSettings(kind="ollama", base_url=url, model="fake", **usual)
        case _:
            return MoondreamSettings(kind="moondream", dialect="local", base_url=url + "/v1", **usual)


def asking(server: FakeProvider, dialect: str, **more: Any) -> AbstractAsyncContextManager[ConfiguredChain]:
    return open_providers([settings_for(dialect, server.url, **more)])
