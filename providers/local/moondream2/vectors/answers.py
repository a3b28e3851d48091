"""Whole answers: each alone, all together, and in any order."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import torch
from torch import Tensor

from providers.local.answers import Answer, Found
from providers.local.engine import Reference
from providers.local.moondream2 import skills
from providers.local.moondream2.batch import Batch, Entry
from providers.local.moondream2.cache import Prefix
from providers.local.moondream2.engine import placed
from providers.local.moondream2.skills import ChooseToken, ReadExtent, ReadPlace, Skill, Step, Token
from providers.local.moondream2.vectors.comparison import Comparison
from providers.local.moondream2.vectors.folder import Vectors

TEXT_STOPS = {"eos": "stop", "max_tokens": "length", "max_objects": "length"}


@dataclass(frozen=True, slots=True)
class Case:
    """One recorded question."""

    told: Mapping[str, Any]
    prompt: list[int]
    skill: Callable[[], Skill[Any]]
    places: Sequence[Reference] = ()

    @property
    def key(self) -> str:
        return str(self.told["key"])

    @property
    def picture(self) -> str | None:
        return self.told.get("image")


def cases(vectors: Vectors) -> list[Case]:
    tokens, index = vectors.tokens, vectors.index
    cases: list[Case] = []
    for told in index["query"]:
        cases.append(Case(told, tokens.query(told["question"]), _answering(vectors, told)))
    for told in index["caption"]:
        cases.append(Case(told, tokens.caption(told["length"]), _answering(vectors, told)))
    for told in index["spatial_query"]:
        places = [tuple(place) for place in told["spatial_refs"]]
        cases.append(Case(told, tokens.query(told["question"], places), _answering(vectors, told), places))
    for told in index["text_only_query"]:
        cases.append(Case(told, [tokens.ids.bos_id, *tokens.query(told["question"])], _answering(vectors, told)))
    for told in index["reasoning"]:
        prompt = tokens.query(told["question"], reasoning=True)
        cases.append(Case(told, prompt, _later(skills.reasoned_answer, tokens, told["max_tokens"])))
    for told in index["detect"]:
        skill = _later(skills.detect, tokens.ids, told["max_objects"])
        cases.append(Case(told, tokens.detect(told["object"]), skill))
    for told in index["point"]:
        skill = _later(skills.point, tokens.ids, told["max_objects"])
        cases.append(Case(told, tokens.point(told["object"]), skill))
    return cases


def _answering(vectors: Vectors, told: Mapping[str, Any]) -> Callable[[], Skill[Answer]]:
    return _later(skills.answer, vectors.tokens, told["max_tokens"])


def alone(vectors: Vectors, step: Comparison) -> None:
    prefixes: dict[str, Prefix] = {}
    for case in cases(vectors):
        states: dict[Hashable, list[tuple[Step, Tensor]]] = {}
        batch = Batch(vectors.model, watch=_noting(states))
        if case.picture not in prefixes:
            prefixes |= _prefixes_of(vectors, batch, [case])
        done = dict(batch.enter([_entry(vectors, case, prefixes)]))
        while len(batch):
            done |= dict(batch.step())
        _compare(vectors, step, case, done[case.key])
        _compare_states(vectors, step, case, states[case.key])


def together(vectors: Vectors, step: Comparison) -> None:
    states: dict[Hashable, list[tuple[Step, Tensor]]] = {}
    batch, asked = Batch(vectors.model, watch=_noting(states)), cases(vectors)
    prefixes = _prefixes_of(vectors, batch, asked)
    done = dict(batch.enter([_entry(vectors, case, prefixes) for case in asked]))
    while len(batch):
        done |= dict(batch.step())
    for case in asked:
        _compare(vectors, step, case, done[case.key])
        _compare_states(vectors, step, case, states[case.key])


def shuffled(vectors: Vectors, step: Comparison) -> None:
    """A few rows enter at each step, beside rows of any age."""
    random, batch, asked = Random(0), Batch(vectors.model), cases(vectors)
    prefixes = _prefixes_of(vectors, batch, asked)
    waiting = random.sample(asked, len(asked))
    done: dict[Hashable, Any] = {}
    while waiting or len(batch):
        entering, waiting = waiting[:3], waiting[3:]
        if entering:
            done |= dict(batch.enter([_entry(vectors, case, prefixes) for case in entering]))
        done |= dict(batch.step())
    for case in asked:
        _compare(vectors, step, case, done[case.key])
    for row in vectors.index["batch"]["rows"]:
        ours = done[row["query_key"]]
        step.same(f"batch {row['query_key']}", [list(ours.tokens), ours.text], [row["tokens"], row["text"]])


def _prefixes_of(vectors: Vectors, batch: Batch, cases: Sequence[Case]) -> dict[str, Prefix]:
    names = list(dict.fromkeys(case.picture for case in cases if case.picture))
    return dict(zip(names, batch.encode([vectors.crops[name] for name in names]), strict=True)) if names else {}


def _entry(vectors: Vectors, case: Case, prefixes: Mapping[str, Prefix]) -> Entry:
    ids = vectors.tokens.ids
    prompt = placed(case.prompt, case.places, ids.coord_id, ids.size_id)
    return Entry(case.key, prompt, prefixes[case.picture] if case.picture else None, case.skill())


def _compare(vectors: Vectors, step: Comparison, case: Case, ours: Answer | Found) -> None:
    told = case.told
    if isinstance(ours, Found):
        found = [[one.x_min, one.y_min, one.x_max, one.y_max] for one in ours.boxes] or [
            [one.x, one.y] for one in ours.points
        ]
        theirs = [list(one.values()) for one in told["objects"] or told["points"] or []]
        step.same(f"{case.key} count", len(found), len(theirs))
        if found and len(found) == len(theirs):
            step.close(case.key, torch.tensor(found).double(), torch.tensor(theirs).double(), 1e-6)
        step.same(f"{case.key} stop", ours.stop, TEXT_STOPS[told["stop"]])
    elif ours.reasoning:
        step.same(f"{case.key} reasoning", list(ours.reasoning.tokens), told["reasoning_tokens"])
        step.same(f"{case.key} reasoning's text", ours.reasoning.text, told["reasoning_text"])
        grounding = [
            {"start_idx": one.start, "end_idx": one.end, "points": [list(point) for point in one.points]}
            for one in ours.reasoning.grounding
        ]
        theirs = [one | {"points": [list(point) for point in one["points"]]} for one in told["grounding"]]
        step.same(f"{case.key} grounding", grounding, theirs)
        step.same(case.key, [list(ours.tokens), ours.text], [told["answer_tokens"], told["answer"]])
        step.same(f"{case.key} stop", ours.stop, TEXT_STOPS[told["answer_stop"]])
    else:
        step.same(case.key, [list(ours.tokens), ours.text], [told["tokens"], told["text"]])
        step.same(f"{case.key} stop", ours.stop, TEXT_STOPS[told["stop"]])


def _compare_states(vectors: Vectors, step: Comparison, case: Case, states: Sequence[tuple[Step, Tensor]]) -> None:
    """The numbers that were recorded behind some of the steps."""
    text, region = vectors.model.text, vectors.model.region
    first = states[0][1]
    chosen = [(one, state) for one, state in states if isinstance(one, ChooseToken)]
    answered = next((state for one, state in chosen if one.feed == Token(vectors.tokens.ids.answer_id)), first)
    placed_ = next((state for one, state in states if isinstance(one, ReadPlace)), first)
    sized = next((state for one, state in states if isinstance(one, ReadExtent)), first)
    recorded: dict[str, tuple[Callable[[], Tensor], str]] = {
        "prompt_last_hidden": (lambda: first, "prompt_last_hidden"),
        "first_logits": (lambda: text.logits(first), "token_logits"),
        "last_step_logits_raw": (lambda: text.logits(chosen[-1][1]), "token_logits"),
        "answer_first_logits": (lambda: text.logits(answered), "token_logits"),
        "first_x_logits": (lambda: region.coord_logits(placed_[None])[0], "region_logits"),
        "first_size_logits": (lambda: region.size_logits(sized[None])[0], "region_logits"),
    }
    for what, (ours, tolerance) in recorded.items():
        if (array := f"{case.key}.{what}") in vectors.golden:
            vectors.close(step, array, ours(), tolerance)


def _later(skill: Callable[..., Skill[Any]], *arguments: object) -> Callable[[], Skill[Any]]:
    return lambda: skill(*arguments)


def _noting(states: dict[Hashable, list[tuple[Step, Tensor]]]) -> Callable[[Hashable, Step, Tensor], None]:
    def note(key: Hashable, step: Step, state: Tensor) -> None:
        states.setdefault(key, []).append((step, state.clone()))

    return note
