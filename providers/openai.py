"""The chat completions that vLLM, llama.cpp, LM Studio and many more speak, with the schema in
`response_format`."""

from collections.abc import Sequence
from typing import Any

from providers.asking import Asking, Usage, as_data_uri, ask_each, ask_probe, tokens, word
from providers.base import Analysis, Failure, Outcome, ProviderError, Request
from providers.calls import Calls
from providers.http import Verdict, judge_status
from providers.schema import answers_from_json, prompt_of, schema_of
from providers.settings import OpenAISettings


def headers(settings: OpenAISettings) -> dict[str, str]:
    key = settings.api_key.get_secret_value()
    return {"Authorization": f"Bearer {key}"} if key else {}


def judge(status: int, message: str) -> Verdict:
    """Loading and overload are a pause. Under 200, LM Studio tells of unknown paths, and llama.cpp of a full
    context."""
    said = message.lower()
    if status in (502, 503, 504):
        return Failure.OVERLOADED, None
    if status == 200 and "unexpected endpoint" in said:
        return Failure.NOT_FOUND, None
    if status in (200, 500) and ("exceed_context_size" in said or "context size" in said):
        return Failure.BAD_REQUEST, None
    return judge_status(status, message)


class OpenAI:
    """One model on one server. Keeps the model's name as the reply tells it: LM Studio answers with what it
    has."""

    def __init__(self, name: str, settings: OpenAISettings, calls: Calls) -> None:
        self.name = name
        self._settings = settings
        self._calls = calls

    async def analyze(self, requests: Sequence[Request]) -> list[Outcome]:
        return await ask_each(self._ask, requests)

    async def probe(self) -> str:
        """A tiny question about a tiny picture: no health page proves that the model sees."""
        return await ask_probe(self._ask)

    async def _ask(self, request: Request) -> Analysis:
        asking = Asking(request)
        reply = await self._calls.post("/chat/completions", self._body(request))
        told = reply.get("usage")
        told = told if isinstance(told, dict) else {}
        usage = Usage(tokens(told.get("prompt_tokens")), tokens(told.get("completion_tokens")))
        return asking.done(
            self.name,
            answers_from_json(request.questions, _content(reply)),
            model=self._settings.model,
            model_version=word(reply.get("model")) or self._settings.model,
            usage=usage,
            cost_usd=usage.cost_usd(self._settings),
        )

    def _body(self, request: Request) -> dict[str, Any]:
        return {
            "model": self._settings.model,
            "temperature": 0,
            "max_tokens": self._settings.max_tokens,
            "stream": False,
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "image_url", "image_url": {"url": as_data_uri(request.jpeg)}},
                        {"type": "text", "text": prompt_of(request.questions)},
                    ],
                }
            ],
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "answers", "strict": True, "schema": schema_of(request.questions)},
            },
        }


def _content(reply: dict[str, Any]) -> str:
    choices = reply.get("choices")
    if not isinstance(choices, list) or len(choices) != 1 or not isinstance(choices[0], dict):
        raise ProviderError(Failure.INVALID_OUTPUT, "not exactly one choice in the reply")
    if (reason := choices[0].get("finish_reason")) == "length":
        raise ProviderError(Failure.TRUNCATED, "stopped at max_tokens")
    if reason != "stop":
        raise ProviderError(Failure.INVALID_OUTPUT, f"ended with finish_reason {reason!r}")
    message = choices[0].get("message")
    content = message.get("content") if isinstance(message, dict) else None
    if content is None or (isinstance(content, str) and not content.strip()):
        raise ProviderError(Failure.EMPTY, "an empty answer")
    if not isinstance(content, str):
        raise ProviderError(Failure.INVALID_OUTPUT, "message.content is no text")
    return content
