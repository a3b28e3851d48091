"""Asking a Moondream server that a test has set up."""

from typing import Any

from providers.base import Outcome, Request
from providers.open import open_providers
from providers.settings import MoondreamSettings
from tests.providers.samples import (
    FIRE,
    a_request,
)
from tests.providers.wire import Wire, told

YES = told({"request_id": "1", "answer": "Yes", "metrics": {"input_tokens": 735, "output_tokens": 2}})


def moondream(wire: Wire, dialect: str = "cloud", **more: Any) -> MoondreamSettings:
    usual: dict[str, Any] = {"max_attempts": 1, "rate_per_s": 1000, "timeout_s": 5}
    if dialect == "cloud":
        usual["api_key"] = "md-secret-key"
    return MoondreamSettings(kind="moondream", dialect=dialect, base_url=wire.url + "/v1", **(usual | more))


async def ask(settings: MoondreamSettings, request: Request | None = None) -> Outcome:
    async with open_providers([settings]) as chain:
        [outcome] = await chain.analyze([request or a_request(FIRE)])
        return outcome
