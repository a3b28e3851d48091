"""Moondream: one skill per question, asked of Cloud, Station or our own server, and put together here.

The three speak the same JSON. Cloud wants a key and a model; Station answers its errors under 200 and ignores
settings; our own server encodes a picture once and answers all questions about it that arrive together.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

from providers import shapes
from providers.answers import answer_from_text, error, ok, unknown
from providers.asking import (
    CONTENT_FAILURES,
    Asking,
    Usage,
    as_data_uri,
    ask_each,
    ask_probe,
    require_string,
    tokens,
    word,
)
from providers.base import (
    Advice,
    Analysis,
    Answer,
    AnswerStatus,
    ConfidenceSource,
    Failure,
    Outcome,
    ProviderError,
    Question,
    QuestionKind,
    Request,
    Value,
)
from providers.calls import Calls
from providers.http import Verdict, judge_status
from providers.moondream_skills import YES_NO, Skill, closed_skills, skill_for
from providers.settings import MoondreamSettings

BASE_URLS = {
    "cloud": "https://api.moondream.ai/v1",
    "station": "http://127.0.0.1:2020/v1",
    "local": "http://127.0.0.1:2021/v1",
}
CLOUD_MODEL = "moondream3.1-9B-A2B"
STATION_PAUSE_S = 2.0
LEAST_MASS = 0.02
"""Of everything that the model could have said: with less, the choices are not what it has an opinion on."""


def base_url(settings: MoondreamSettings) -> str:
    return settings.base_url or BASE_URLS[settings.dialect]


def headers(settings: MoondreamSettings) -> dict[str, str]:
    key = settings.api_key.get_secret_value()
    return {"X-Moondream-Auth": key} if key else {}


def judge(status: int, message: str) -> Verdict:
    """Station's errors, all under 200, told apart by their words; a status other than 200 means what it
    says."""
    if status != 200:
        return judge_status(status, message)
    known: dict[str, Verdict] = {
        "Queue is full": (Failure.OVERLOADED, None),
        "Request timeout": (Failure.TIMEOUT, Advice.FAULT),
        "are required": (Failure.BAD_REQUEST, None),
        "not available": (Failure.NOT_FOUND, None),
        "Inference service not": (Failure.SERVER_ERROR, Advice.RETRY),
    }
    for words, verdict in known.items():
        if words in message:
            return verdict
    return Failure.SERVER_ERROR, Advice.RETRY_ONCE


def judge_local(status: int, message: str) -> Verdict:
    """Our own server says 503 while it loads and while its queue is full; both pass."""
    return (Failure.OVERLOADED, None) if status == 503 else judge(status, message)


@dataclass(frozen=True, slots=True)
class _Told:
    """What one call came to: the reply or the failure, and which model it named."""

    body: dict[str, Any]
    failure: ProviderError | None = None

    @property
    def usage(self) -> Usage:
        metrics = self.body.get("metrics")
        metrics = metrics if isinstance(metrics, dict) else {}
        return Usage(tokens(metrics.get("input_tokens")), tokens(metrics.get("output_tokens")))


class Moondream:
    """Any Moondream server. Owns nothing: the connections belong to `calls`."""

    def __init__(self, name: str, settings: MoondreamSettings, calls: Calls) -> None:
        self.name = name
        self._settings = settings
        self._calls = calls
        self._model = settings.model or (CLOUD_MODEL if settings.dialect == "cloud" else "")

    async def analyze(self, requests: Sequence[Request]) -> list[Outcome]:
        return await ask_each(self._ask, requests)

    async def probe(self) -> str:
        """One tiny question for real. With the cloud it costs a fiftieth of a cent."""
        return await ask_probe(self._ask)

    async def _ask(self, request: Request) -> Analysis:
        asking = Asking(request)
        skills = {question.name: self._skills(question) for question in request.questions}
        told = await self._call_all(list(dict.fromkeys(chain(*skills.values()))), self._common(request))
        for one in told.values():
            if one.failure is not None and one.failure.failure not in CONTENT_FAILURES:
                raise one.failure
        answers = tuple(
            _answer(question, [(skill, told[skill]) for skill in skills[question.name]])
            for question in request.questions
        )
        _require_one(answers, told)
        usage = sum((one.usage for one in told.values()), Usage())
        version = next((name for one in told.values() if (name := word(one.body.get("model")))), "")
        return asking.done(
            self.name,
            answers,
            model=self._model or "moondream",
            model_version=version or self._model,
            usage=usage,
            cost_usd=usage.cost_usd(self._settings),
        )

    def _skills(self, question: Question) -> tuple[Skill, ...]:
        closed = closed_skills(question) if self._settings.dialect == "local" else ()
        return closed or (skill_for(question),)

    def _common(self, request: Request) -> dict[str, Any]:
        """What each call about this picture says."""
        common: dict[str, Any] = {"image_url": as_data_uri(request.jpeg), "stream": False}
        if self._model:
            common["model"] = self._model
        if self._settings.dialect == "station":
            common["timeout"] = self._settings.timeout_s
        if self._settings.dialect == "local":
            common["priority"] = request.urgency
        return common

    async def _call_all(self, skills: Sequence[Skill], common: dict[str, Any]) -> dict[Skill, _Told]:
        """All at once where the server makes one batch of them, else one after another, up to the first that
        fails."""
        if self._settings.dialect == "local":
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._call(skill, common), name=skill.path) for skill in skills]
            return {skill: task.result() for skill, task in zip(skills, tasks, strict=True)}
        told: dict[Skill, _Told] = {}
        for skill in skills:
            told[skill] = one = await self._call(skill, common)
            if one.failure is not None and one.failure.failure not in CONTENT_FAILURES:
                break
        return told

    async def _call(self, skill: Skill, common: dict[str, Any]) -> _Told:
        try:
            reply = await self._calls.post(skill.path, common | skill.body())
        except ProviderError as failure:
            if self._settings.dialect == "station" and failure.failure is Failure.OVERLOADED:
                failure.retry_after_s = failure.retry_after_s or STATION_PAUSE_S
            return _Told({}, failure)
        if reply.get("finish_reason") == "length":
            return _Told(reply, ProviderError(Failure.TRUNCATED, f"{skill.path} stopped at its token limit"))
        return _Told(reply)


def _answer(question: Question, calls: Sequence[tuple[Skill, _Told]]) -> Answer:
    for _, told in calls:
        if told.failure is not None:
            return error(question, str(told.body.get("answer", "")) or told.failure.message)
    [(skill, told), *_] = calls
    try:
        if skill.choices:
            return _closed_answer(question, calls)
        return _READERS[skill.path](question, told.body)
    except ProviderError as failure:
        return error(question, str(told.body.get("answer", "")) or failure.message)
    except ValueError as problem:
        return error(question, f"{problem}: {told.body}")


def _closed_answer(question: Question, calls: Sequence[tuple[Skill, _Told]]) -> Answer:
    """Decided by likelihood, which is a confidence that means something. Unknown where the model would rather have
    said something else altogether. Raises ValueError for a reply that has no likelihoods."""
    read = [_likeliest(skill, told.body) for skill, told in calls]
    chosen = tuple(choice for choice, *_ in read)
    said = ", ".join(chosen)
    if any(mass < LEAST_MASS for *_, mass in read):
        return unknown(question, said)
    value: Value = chosen[0]
    if question.kind is QuestionKind.BOOLEAN:
        value = chosen[0] == YES_NO[0]
    elif question.kind is QuestionKind.LABELS:
        value = tuple(label for label, is_there in zip(question.choices, chosen, strict=True) if is_there == YES_NO[0])
    surely = min(probability for _, probability, _ in read)
    return replace(ok(question, value, said), confidence=surely, confidence_source=ConfidenceSource.LOGITS)


def _likeliest(skill: Skill, body: dict[str, Any]) -> tuple[str, float, float]:
    """The choice, its probability among all choices, and what all of them together have."""
    choice, shares, mass = body.get("answer"), body.get("probabilities"), body.get("mass")
    if choice not in skill.choices or not isinstance(shares, dict):
        raise ValueError("not one of the choices, with its likelihood")
    told = (shares.get(choice), mass)
    if not all(isinstance(one, int | float) and not isinstance(one, bool) and 0 <= one <= 1.001 for one in told):
        raise ValueError("likelihoods that are none")
    return choice, min(1.0, float(shares[choice])), float(body["mass"])


def _read_text(question: Question, body: dict[str, Any]) -> Answer:
    return answer_from_text(question, require_string(body.get("answer"), "answer"))


def _read_caption(question: Question, body: dict[str, Any]) -> Answer:
    return answer_from_text(question, require_string(body.get("caption"), "caption"))


def _read_objects(question: Question, body: dict[str, Any]) -> Answer:
    found = shapes.boxes(body.get("objects"))
    if question.kind is QuestionKind.COUNT:
        if len(found) >= shapes.MAX_SHAPES:
            raise ValueError("as many as are ever told, so maybe more")
        return ok(question, len(found), str(len(found)))
    return ok(question, found, "")


def _read_points(question: Question, body: dict[str, Any]) -> Answer:
    return ok(question, shapes.points(body.get("points")), "")


_READERS = {
    "/query": _read_text,
    "/caption": _read_caption,
    "/detect": _read_objects,
    "/point": _read_points,
}


def _require_one(answers: Sequence[Answer], told: dict[Skill, _Told]) -> None:
    """Raises where nothing could be read: the first call's own failure, or else invalid_output."""
    if any(answer.status is not AnswerStatus.ERROR for answer in answers) or not answers:
        return
    for one in told.values():
        if one.failure is not None:
            raise one.failure
    raws = "; ".join(answer.raw[:80] for answer in answers)
    if all(not str(one.body.get("answer", one.body.get("caption", "x"))).strip() for one in told.values()):
        raise ProviderError(Failure.EMPTY, "only empty answers")
    raise ProviderError(Failure.INVALID_OUTPUT, f"no answer could be read: {raws!r}")
