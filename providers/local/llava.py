"""LLaVA (1.5, NeXT, OneVision) through transformers' own classes: batches with padding on the left, and JSON by
grammar.

What is in a batch ends together; what comes meanwhile waits for the next one.
"""

import asyncio
import math
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import structlog
import torch
from PIL import Image
from torch import nn
from transformers import AutoModelForImageTextToText, AutoProcessor, StoppingCriteria

from providers.local.answers import Answer, Choice, Filled, Found
from providers.local.devices import device_of, is_out_of_memory, precision_of
from providers.local.engine import Asked, CaptionLength, Reference
from providers.local.errors import BadRequestError, ModelError, UnsupportedError
from providers.local.escaping import harmless
from providers.local.linear import Compressed
from providers.local.pictures import Prepared
from providers.local.settings import ModelSettings
from providers.local.waiting import Waiting, deliver, served

log = structlog.get_logger()

GATHER_S = 0.05
END_S = 600.0
"""A batch is over by then, even on a slow CPU."""
MAX_PLACES = 4096
CAPTIONS: Mapping[CaptionLength, str] = {
    "short": "Describe the image in a few words.",
    "normal": "Describe the image in one or two sentences.",
    "long": "Describe the image in detail.",
}


@dataclass(frozen=True, slots=True)
class _Kind:
    """What can be in one batch."""

    has_picture: bool
    has_schema: bool
    temperature: float
    top_p: float
    is_weighed: bool


@dataclass(frozen=True, slots=True, eq=False)
class _Job:
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
    def kind(self) -> _Kind:
        asked = self.asked
        is_drawn = asked.temperature > 0
        return _Kind(
            self.picture is not None,
            self.schema is not None,
            asked.temperature,
            asked.top_p if is_drawn else 1.0,
            bool(self.wordings),
        )


@dataclass(slots=True)
class _Tally:
    """Counters since the start."""

    rows: int = 0
    batches: int = 0
    largest_batch: int = 0
    splits: int = 0


class _Ends(StoppingCriteria):
    """A row is over at its own limit, and when nobody waits for it any more."""

    def __init__(self, jobs: Sequence[_Job], prompt_length: int) -> None:
        self._jobs = jobs
        self._prompt_length = prompt_length

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        said = input_ids.shape[1] - self._prompt_length
        over = [said >= job.asked.max_tokens or job.future.cancelled() for job in self._jobs]
        return torch.tensor(over, device=input_ids.device)


class _Worker:
    """The model, and the thread that has it."""

    def __init__(self, model: Any, processor: Any, settings: ModelSettings) -> None:
        self.waiting: Waiting[_Job] = Waiting(settings.waiting, GATHER_S)
        self.tally = _Tally()
        self.failed: Future[None] = Future()
        self._model = model
        self._processor = processor
        self._rows_max = settings.rows
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

    def run(self) -> None:
        """Until it is closed, or fails; then nobody is left waiting for an answer."""
        reason = "the engine was stopped"
        batch: list[_Job] = []
        try:
            while self.waiting.until_wanted(is_busy=False):
                if batch := self.waiting.take(self._fits):
                    self._answer(batch)
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            log.exception("engine.failed")
            self.failed.set_exception(ModelError(reason))
        finally:
            self.waiting.close()
            self.waiting.give_up(reason, *batch)

    def _fits(self, job: _Job, beside: list[_Job]) -> bool:
        return not beside or (len(beside) < self._rows_max and job.kind == beside[0].kind)

    def _answer(self, batch: list[_Job]) -> None:
        """Where there is no memory for all of them, half of them at a time; where there is none for one, it raises."""
        try:
            results = self._weigh(batch) if batch[0].wordings else self._say(batch)
        except RuntimeError as error:
            if not is_out_of_memory(error) or len(batch) == 1:
                raise
            self.tally.splits += 1
            self._rows_max = len(batch) // 2
            log.warning("engine.out_of_memory", rows=len(batch), rows_from_now_on=self._rows_max)
            self.waiting.put_back(batch)
            return
        self.tally.rows += len(batch)
        self.tally.batches += 1
        self.tally.largest_batch = max(self.tally.largest_batch, len(batch))
        for job, result in zip(batch, results, strict=True):
            deliver(job, result)

    @torch.inference_mode()
    def _say(self, batch: list[_Job]) -> list[Answer]:
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

    def _read(self, ids: list[int], job: _Job, ends: frozenset[int]) -> Answer:
        end = next((place for place, id_ in enumerate(ids) if id_ in ends), None)
        said = ids[: job.asked.max_tokens] if end is None else ids[:end]
        text = self._processor.tokenizer.decode(said, skip_special_tokens=True)
        return Answer(text, tuple(said), "length" if end is None else "stop")

    @torch.inference_mode()
    def _weigh(self, batch: list[_Job]) -> list[list[float]]:
        """The probability of each wording: all of them behind the same prompt, in one pass."""
        return [self._weigh_one(job) for job in batch]

    def _weigh_one(self, job: _Job) -> list[float]:
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

    def _inputs(self, batch: list[_Job]) -> dict[str, torch.Tensor]:
        prompts = [job.prompt for job in batch]
        images = [job.picture for job in batch if job.picture is not None]
        inputs = self._processor(
            text=prompts, images=images or None, padding=True, padding_side="left", return_tensors="pt"
        )
        for job, length in zip(batch, inputs["attention_mask"].sum(dim=1).tolist(), strict=True):
            job.asked.used.input_tokens = length
        if (length := inputs["input_ids"].shape[1]) > MAX_PLACES:
            raise ModelError(f"the prompt takes {length} tokens; at most {MAX_PLACES} are read")
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

    def _held_to(self, batch: list[_Job]) -> Any:
        """A grammar for each row: what does not fit the schema can't be said. No free white space, with which small
        models fill their answers."""
        import xgrammar

        if self._grammars is None:
            size = self._model.get_output_embeddings().weight.shape[0]
            told = xgrammar.TokenizerInfo.from_huggingface(self._processor.tokenizer, vocab_size=size)
            self._grammars = xgrammar.GrammarCompiler(told)
        compiled = [self._grammars.compile_json_schema(job.schema, any_whitespace=False) for job in batch]
        return xgrammar.contrib.hf.LogitsProcessor(compiled)


class Llava:
    def __init__(self, worker: _Worker, settings: ModelSettings, version: str) -> None:
        self.version = version
        self._worker = worker
        self._pictures = Prepared(lambda picture: picture.convert("RGB"), round(settings.max_megapixels * 1e6))

    @property
    def failed(self) -> "Future[None]":
        return self._worker.failed

    def stats(self) -> Mapping[str, float]:
        return {"waiting": len(self._worker.waiting)} | asdict(self._worker.tally)

    async def query(
        self,
        picture: bytes | None,
        question: str,
        asked: Asked,
        *,
        reasoning: bool = False,
        places: Sequence[Reference] = (),
    ) -> Answer:
        if reasoning or places:
            raise UnsupportedError("this model has no reasoning, and no places in a question")
        answer: Answer = await self._ask(picture, question, asked)
        return answer

    async def choose(
        self, picture: bytes | None, question: str, choices: Mapping[str, Sequence[str]], asked: Asked
    ) -> Choice:
        wordings = [(choice, wording) for choice, texts in choices.items() for wording in texts]
        weights: list[float] = await self._ask(
            picture, question, asked, wordings=tuple(wording for _, wording in wordings)
        )
        together = dict.fromkeys(choices, 0.0)
        for (choice, _), weight in zip(wordings, weights, strict=True):
            together[choice] += weight
        total = sum(together.values())
        shares = {choice: weight / total if total else 1 / len(together) for choice, weight in together.items()}
        return Choice(max(shares, key=lambda choice: shares[choice]), shares, total)

    async def caption(self, picture: bytes, length: CaptionLength, asked: Asked) -> Answer:
        answer: Answer = await self._ask(picture, CAPTIONS[length], asked)
        return answer

    async def detect(self, picture: bytes, what: str, max_objects: int, asked: Asked) -> Found:
        raise UnsupportedError("this model has no detect")

    async def point(self, picture: bytes, what: str, max_objects: int, asked: Asked) -> Found:
        raise UnsupportedError("this model has no point")

    async def fill(self, picture: bytes | None, question: str, schema: Mapping[str, Any], asked: Asked) -> Filled:
        answer: Answer = await self._ask(picture, question, asked, schema=schema)
        if answer.stop == "length":
            raise BadRequestError(f"max_tokens: {asked.max_tokens} tokens are too few for this schema")
        return Filled(answer.text, len(answer.tokens))

    async def _ask(self, picture: bytes | None, question: str, asked: Asked, **more: Any) -> Any:
        with self._worker.waiting.arriving():
            pixels = (await self._pictures.get(picture))[1] if picture is not None else None
            job = _Job(self._worker.prompt(question, pixels is not None), pixels, asked, **more)
            self._worker.waiting.submit(job)
        return await asyncio.wrap_future(job.future)


@asynccontextmanager
async def open_engine(settings: ModelSettings) -> AsyncIterator[Llava]:
    """Loaded, and with its thread running. Raises ModelError."""
    engine, worker = await asyncio.to_thread(_loaded, settings)
    async with served(worker.waiting, worker.run, END_S):
        yield engine


def _loaded(settings: ModelSettings) -> tuple[Llava, _Worker]:
    """From the folder alone: no code from it, no pickle, no network."""
    torch.set_num_threads(settings.threads or os.cpu_count() or 1)
    device = device_of(settings.device)
    precision = precision_of(settings.precision, device)
    dtype = "auto" if precision.bits else precision.dtype
    own = {"local_files_only": True, "trust_remote_code": False}
    try:
        processor = AutoProcessor.from_pretrained(settings.folder, **own)
        model = AutoModelForImageTextToText.from_pretrained(settings.folder, dtype=dtype, use_safetensors=True, **own)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"{settings.folder}: {error}") from error
    model = model.to(device).eval()
    if precision.bits:
        _compress(model, precision.bits)
        model.to(precision.dtype)
    worker = _Worker(model, processor, settings)
    version = f"{model.config.model_type} {settings.folder.name} {precision}"
    return Llava(worker, settings, version), worker


def _compress(model: nn.Module, bits: int) -> None:
    """The language model, which is nearly all of it; what sees, and what chooses the words, has 8 bits in any case."""
    for name, layer in list(model.named_modules()):
        if isinstance(layer, nn.Linear):
            model.set_submodule(name, Compressed(layer, bits if ".language_model." in name else 8))
