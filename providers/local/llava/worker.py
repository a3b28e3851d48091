"""Batches for transformers: padded on the left, one kind of request in each, JSON by grammar."""

import math
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image
from transformers import StoppingCriteria

from providers.local.answers import Answer
from providers.local.engine import Asked
from providers.local.errors import BadRequestError
from providers.local.escaping import harmless
from providers.local.settings import ModelSettings
from providers.local.waiting import Waiting, deliver
from providers.local.worker import Tally, Worker

GATHER_S = 0.05
MAX_PLACES = 4096


@dataclass(frozen=True, slots=True)
class Kind:
    """What can be in one batch."""

    has_picture: bool
    has_schema: bool
    temperature: float
    top_p: float
    is_weighed: bool


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """Either a text, held to a schema if there is one; or, with `wordings`, the likelihood of each of them."""

    prompt: str
    picture: Image.Image | None
    asked: Asked
    schema: Mapping[str, Any] | None = None
    wordings: tuple[str, ...] = ()
    future: "Future[Any]" = field(default_factory=Future)

    @property
    def urgency(self) -> int:
        return self.asked.urgency

    @property
    def kind(self) -> Kind:
        asked = self.asked
        is_drawn = asked.temperature > 0
        return Kind(
            self.picture is not None,
            self.schema is not None,
            asked.temperature,
            asked.top_p if is_drawn else 1.0,
            bool(self.wordings),
        )


@dataclass(slots=True)
class Batches(Tally):
    batches: int = 0


class _Ends(StoppingCriteria):
    """A row is over at its own limit, and when nobody waits for it any more."""

    def __init__(self, jobs: Sequence[Job], prompt_length: int) -> None:
        self._jobs = jobs
        self._prompt_length = prompt_length

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        said = input_ids.shape[1] - self._prompt_length
        over = [said >= job.asked.max_tokens or job.future.cancelled() for job in self._jobs]
        return torch.tensor(over, device=input_ids.device)


class LlavaWorker(Worker[Job]):
    """What is in a batch ends together; what comes meanwhile waits for the next one."""

    tally: Batches

    def __init__(self, model: Any, processor: Any, settings: ModelSettings) -> None:
        super().__init__(Waiting(settings.waiting, GATHER_S), settings.rows, Batches())
        self._model = model
        self._processor = processor
        self._grammars: Any = None

    def prompt(self, question: str, has_picture: bool) -> str:
        """In the words that the model was taught."""
        marker = getattr(self._processor, "image_token", "<image>")
        question = harmless(question, {marker, *self._processor.tokenizer.get_added_vocab()})
        content = [{"type": "image"}] if has_picture else []
        message = {"role": "user", "content": [*content, {"type": "text", "text": question}]}
        if self._processor.chat_template:
            told: str = self._processor.apply_chat_template([message], add_generation_prompt=True)
            return told
        return f"USER: {marker if has_picture else ''}\n{question} ASSISTANT:"

    def _turn(self) -> None:
        self._active = self.waiting.take(self._fits)
        if self._active:
            self._answer(self._active)
            self._active = []

    def _fits(self, job: Job, beside: list[Job]) -> bool:
        return not beside or (len(beside) < self._rows_max and job.kind == beside[0].kind)

    def _answer(self, batch: list[Job]) -> None:
        """Who asks what can't be asked is told so; the others are answered all the same."""
        try:
            results = self._weigh(batch) if batch[0].wordings else self._say(batch)
        except BadRequestError as error:
            if len(batch) == 1:
                deliver(batch[0], error)
            else:
                for job in batch:
                    self._answer([job])
            return
        self.tally.rows += len(batch)
        self.tally.batches += 1
        self.tally.largest_batch = max(self.tally.largest_batch, len(batch))
        for job, result in zip(batch, results, strict=True):
            deliver(job, result)

    @torch.inference_mode()
    def _say(self, batch: list[Job]) -> list[Answer]:
        inputs = self._inputs(batch)
        start, asked = inputs["input_ids"].shape[1], batch[0].asked
        is_drawn = asked.temperature > 0
        how = {"temperature": asked.temperature, "top_p": asked.top_p} if is_drawn else {}
        out = self._model.generate(
            **inputs,
            do_sample=is_drawn,
            **how,
            max_new_tokens=max(job.asked.max_tokens for job in batch),
            stopping_criteria=[_Ends(batch, start)],
            logits_processor=[self._held_to(batch)] if batch[0].schema is not None else None,
            pad_token_id=self._pad_id,
        )
        ends = self._end_ids
        return [self._read(ids.tolist(), job, ends) for ids, job in zip(out[:, start:], batch, strict=True)]

    def _read(self, ids: list[int], job: Job, ends: frozenset[int]) -> Answer:
        end = next((place for place, id_ in enumerate(ids) if id_ in ends), None)
        said = ids[: job.asked.max_tokens] if end is None else ids[:end]
        text = self._processor.tokenizer.decode(said, skip_special_tokens=True)
        return Answer(text, tuple(said), "length" if end is None else "stop")

    @torch.inference_mode()
    def _weigh(self, batch: list[Job]) -> list[list[float]]:
        """The probability of each wording: all of them behind the same prompt, in one pass."""
        return [self._weigh_one(job) for job in batch]

    def _weigh_one(self, job: Job) -> list[float]:
        tokenizer = self._processor.tokenizer
        prompt = self._inputs([job])
        spoken = [tokenizer(wording, add_special_tokens=False)["input_ids"] for wording in job.wordings]
        if all(len(ids) == 1 for ids in spoken):
            logs = self._model(**prompt).logits[0, -1].float().log_softmax(-1)
            return [math.exp(logs[ids[0]]) for ids in spoken]
        end = next(iter(self._end_ids))
        return [self._likelihood(prompt, [*ids, end]) for ids in spoken]

    def _likelihood(self, prompt: Mapping[str, torch.Tensor], ids: list[int]) -> float:
        more = torch.tensor([ids], device=self._model.device)
        whole = dict(prompt)
        whole["input_ids"] = torch.cat([prompt["input_ids"], more], dim=1)
        whole["attention_mask"] = torch.cat([prompt["attention_mask"], torch.ones_like(more)], dim=1)
        logs = self._model(**whole).logits[0, -len(ids) - 1 : -1].float().log_softmax(-1)
        return math.exp(float(logs.gather(-1, more.T).sum()))

    def _inputs(self, batch: list[Job]) -> dict[str, torch.Tensor]:
        prompts = [job.prompt for job in batch]
        images = [job.picture for job in batch if job.picture is not None]
        try:
            inputs = self._processor(
                text=prompts, images=images or None, padding=True, padding_side="left", return_tensors="pt"
            )
        except ValueError as error:
            raise BadRequestError(f"the model's processor refuses this: {error}") from error
        for job, length in zip(batch, inputs["attention_mask"].sum(dim=1).tolist(), strict=True):
            job.asked.used.input_tokens = length
        if (length := inputs["input_ids"].shape[1]) > MAX_PLACES:
            raise BadRequestError(f"the prompt takes {length} tokens; at most {MAX_PLACES} are read")
        return dict(inputs.to(self._model.device, self._model.dtype))

    @property
    def _end_ids(self) -> frozenset[int]:
        told = self._model.generation_config.eos_token_id
        ids = told if isinstance(told, list) else [told, self._processor.tokenizer.eos_token_id]
        return frozenset(id_ for id_ in ids if id_ is not None)

    @property
    def _pad_id(self) -> int:
        pad = self._processor.tokenizer.pad_token_id
        return int(next(iter(self._end_ids)) if pad is None else pad)

    def _held_to(self, batch: list[Job]) -> Any:
        """A grammar for each row: what does not fit the schema can't be said. No free white space, with which small
        models fill their answers."""
        import xgrammar

        if self._grammars is None:
            size = self._model.get_output_embeddings().weight.shape[0]
            told = xgrammar.TokenizerInfo.from_huggingface(self._processor.tokenizer, vocab_size=size)
            self._grammars = xgrammar.GrammarCompiler(told)
        compiled = [self._grammars.compile_json_schema(job.schema, any_whitespace=False) for job in batch]
        return xgrammar.contrib.hf.LogitsProcessor(compiled)
