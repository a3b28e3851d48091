"""Ollama's own API: one chat per picture, the schema in `format`. LLaVA, Qwen-VL, Gemma and whatever else
sees."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from providers.asking import Asking, Usage, as_base64, ask_each, ask_probe, tokens, word
from providers.base import Advice, Analysis, Failure, Outcome, ProviderError, Request
from providers.calls import Calls
from providers.http import Verdict, judge_status
from providers.schema import answers_from_json, prompt_of, schema_of
from providers.settings import OllamaSettings

IDENTITY_S = 600.0
"""How long a model's digest is believed: `ollama pull` may change it under us."""


def judge(status: int, message: str) -> Verdict:
    said = message.lower()
    if status == 400 and ("does not support" in said or "capability" in said):
        return Failure.BAD_REQUEST, Advice.PARK
    if status == 499:
        return Failure.CONNECTION_ERROR, Advice.ITEM
    if status == 503:
        return Failure.OVERLOADED, None
    return judge_status(status, message)


@dataclass(frozen=True, slots=True)
class _Identity:
    version: str
    known_until_s: float


class Ollama:
    """One model on one Ollama server. Before its first picture, and every ten minutes, it makes sure that it
    sees."""

    def __init__(
        self, name: str, settings: OllamaSettings, calls: Calls, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.name = name
        self._settings = settings
        self._calls = calls
        self._clock = clock
        self._identity: _Identity | None = None

    async def analyze(self, requests: Sequence[Request]) -> list[Outcome]:
        return await ask_each(self._ask, requests)

    async def probe(self) -> str:
        """Server, capability, and a tiny generation: lists of models were seen to answer while the chat
        hung."""
        self._identity = None
        server = word((await self._calls.get("/api/version")).get("version"))
        return f"{await ask_probe(self._ask)} on Ollama {server}".strip()

    async def _ask(self, request: Request) -> Analysis:
        asking = Asking(request)
        version = await self._model_version()
        reply, usage = await self._chat(request, self._settings.max_tokens)
        if reply.get("done_reason") == "length":
            reply, more = await self._chat(request, 2 * self._settings.max_tokens)
            usage += more
        answers = answers_from_json(request.questions, _content(reply))
        return asking.done(
            self.name,
            answers,
            model=word(reply.get("model")) or self._settings.model,
            model_version=version,
            usage=usage,
            cost_usd=usage.cost_usd(self._settings),
        )

    async def _chat(self, request: Request, max_tokens: int) -> tuple[dict[str, Any], Usage]:
        reply = await self._calls.post("/api/chat", self._body(request, max_tokens))
        return reply, Usage(tokens(reply.get("prompt_eval_count")), tokens(reply.get("eval_count")))

    def _body(self, request: Request, max_tokens: int) -> dict[str, Any]:
        """The picture stands in the first message, with the text: in any other place, some models don't see
        it."""
        return {
            "model": self._settings.model,
            "stream": False,
            "think": False,
            "keep_alive": self._settings.keep_alive,
            "format": schema_of(request.questions),
            "options": {
                "temperature": 0,
                "seed": 1,
                "num_predict": max_tokens,
                "num_ctx": self._settings.num_ctx,
            },
            "messages": [
                {
                    "role": "user",
                    "content": prompt_of(request.questions),
                    "images": [as_base64(request.jpeg)],
                }
            ],
        }

    async def _model_version(self) -> str:
        if self._identity is None or self._clock() > self._identity.known_until_s:
            await self._require_sight()
            self._identity = _Identity(await self._digest(), self._clock() + IDENTITY_S)
        return self._identity.version

    async def _require_sight(self) -> None:
        shown = await self._calls.post("/api/show", {"model": self._settings.model})
        can = shown.get("capabilities")
        if isinstance(can, list) and "vision" not in can:
            message = f"{self._settings.model} can't see pictures: its capabilities are {can}"
            raise ProviderError(Failure.BAD_REQUEST, message, advice=Advice.PARK)

    async def _digest(self) -> str:
        """The name with the start of its digest, or the name alone where the server doesn't list it."""
        try:
            models = (await self._calls.get("/api/tags")).get("models")
        except ProviderError:
            return self._settings.model
        wanted = {self._settings.model, f"{self._settings.model}:latest"}
        for model in models if isinstance(models, list) else []:
            if isinstance(model, dict) and word(model.get("name")) in wanted and (digest := word(model.get("digest"))):
                return f"{self._settings.model}@{digest.removeprefix('sha256:')[:12]}"
        return self._settings.model


def _content(reply: dict[str, Any]) -> str:
    reason = reply.get("done_reason", "stop")
    if reason == "length":
        raise ProviderError(Failure.TRUNCATED, "stopped at num_predict, twice")
    message = reply.get("message")
    content = message.get("content") if isinstance(message, dict) else None
    if not isinstance(content, str):
        raise ProviderError(Failure.INVALID_OUTPUT, "no message.content in the reply")
    if not content.strip():
        raise ProviderError(Failure.EMPTY, "an empty answer")
    if reason != "stop":
        raise ProviderError(Failure.INVALID_OUTPUT, f"ended with done_reason {reason!r}")
    return content
