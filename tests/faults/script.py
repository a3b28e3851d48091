"""A provider that answers by lot: mostly well, sometimes late, unsure, wrong or not at all; the same event meets the
same fate at every try but for what a second try may mend."""

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass

from providers.answers import ok, unknown
from providers.asking import Asking
from providers.base import Analysis, Answer, Failure, Outcome, ProviderError, Question, QuestionKind, Request
from tests.faults.minting import subject


@dataclass(frozen=True, slots=True)
class Script:
    """Shares of requests, each 0..1; what is left is answered at once."""

    slow: float = 0.05
    degraded: float = 0.1
    unusable: float = 0.05
    """Answered with what is no answer: final."""
    away: float = 0.05
    """Each time by lot: a server error, which another try may mend."""
    slow_s: float = 0.02
    down: bool = False
    """Nobody can be asked at all."""


class ScriptedProvider:
    def __init__(self, script: Script) -> None:
        self.name = "scripted"
        self.script = script

    async def analyze(self, requests: Sequence[Request]) -> list[Outcome]:
        return [await self._answer(request) for request in requests]

    async def probe(self) -> str:
        return "scripted"

    async def _answer(self, request: Request) -> Outcome:
        script, lot = self.script, random.Random(request.event_id.int).random()
        if script.down:
            return ProviderError(Failure.CONNECTION_ERROR, "down by script")
        if random.random() < script.away:
            return ProviderError(Failure.SERVER_ERROR, "away by lot")
        if lot < script.slow:
            await asyncio.sleep(script.slow_s)
        elif lot < script.slow + script.unusable:
            return ProviderError(Failure.INVALID_OUTPUT, "unusable by lot")
        return _analysis(request, degraded=lot > 1 - script.degraded)


def _analysis(request: Request, degraded: bool) -> Analysis:
    answers = tuple(_answer(question, request) for question in request.questions)
    return Asking(request).done("scripted", answers, model="lot", model_version="1", degraded=degraded)


def _answer(question: Question, request: Request) -> Answer:
    """The sentence names the event in the picture: so the oracle sees whether each has the answer to its own."""
    if question.kind is QuestionKind.TEXT:
        return ok(question, f"about {subject(request.jpeg)}", "")
    return unknown(question)
