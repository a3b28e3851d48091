"""Teaches a small Moondream on tableaux: first the vision encoder what each patch shows, then everything to answer.

python -m tests.world.teach POOL FOLDER

Goes on where it was stopped. The recipe is plain: Muon for the matrices within, AdamW for all else, a cosine for each
phase, no dropout.
"""

import argparse
import json
import math
import os
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn
from torch.nn import functional

from providers.local.moondream2.config import MoondreamConfig
from providers.local.moondream2.layers import fourier_features
from providers.local.moondream2.model import Moondream
from providers.local.moondream2.text import rotary_table
from providers.local.moondream2.tokens import Tokens
from tests.world import lessons
from tests.world.lessons import Truth
from tests.world.muon import Muon
from tests.world.patches import Patches, PatchHead, patches_of
from tests.world.pool import SIDE_PX, read_pool
from tests.world.rows import COORD, NOTHING, SIZE, Rows, Teacher, stacked
from tests.world.varied import Varied

BATCH = 64
LEARNING_RATE, MUON_RATE = 1.5e-3, 2.5e-3
WEIGHT_DECAY = 0.05
WARM_UP_STEPS = 200
FIRST_STEPS, SECOND_STEPS = 21_400, 3600
"""For the encoder alone, and then for everything."""
SHOWN = 5 / 9
"""Of the patches, while the encoder learns alone: most of a picture is background, and would take half of the time.
That is far from what it meets later: before the second phase it does worse on whole pictures than its loss says."""
FLOOR = 0.02
COORD_SPREAD, SIZE_SPREAD = 2.0, 3.0
"""Bins: how soft the targets of places and sizes are."""
VOCABULARY = 640
"""At most: there are fewer words."""
SPECIALS = ("<|endoftext|>", *(f"<|md_reserved_{number}|>" for number in range(20)))


def tiny_tokenizer(texts: Sequence[str]) -> Tokenizer:
    """Byte-level, so that any text can be said; ids 0 to 20 are the control tokens, as in the real one."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[AddedToken(word, special=True) for word in SPECIALS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def tiny_config(tokenizer: Tokenizer) -> MoondreamConfig:
    """The same structure with other sizes. One crop: the picture itself."""

    def words(text: str) -> list[int]:
        return list(tokenizer.encode(text).ids)

    grid = SIDE_PX // 14
    caption = {length: [1, *words("describe"), 2, *words(length), 3] for length in ("short", "normal", "long")}
    asked = {task: {"prefix": [1, *words(task), 2], "suffix": [3]} for task in ("query", "detect", "point")}
    return MoondreamConfig.model_validate(
        {
            "text": {
                "dim": 128,
                "ff_dim": 512,
                "n_layers": 4,
                "n_heads": 2,
                "n_kv_heads": 2,
                "vocab_size": tokenizer.get_vocab_size(),
                "max_context": 512,
                "prefix_attn": 1 + grid * grid,
            },
            "vision": {
                "enc_dim": 128,
                "enc_n_layers": 6,
                "enc_ff_dim": 512,
                "enc_n_heads": 4,
                "proj_out_dim": 128,
                "proj_inner_dim": 512,
                "crop_size": SIDE_PX,
                "max_crops": 1,
            },
            "region": {
                "dim": 128,
                "coord_feat_dim": 64,
                "coord_out_dim": 256,
                "size_feat_dim": 64,
                "size_out_dim": 512,
                "inner_dim": 256,
            },
            "tokenizer": {"templates": {"caption": caption, **asked}},
        }
    )


def texts_of(truths: Sequence[Truth]) -> Iterator[str]:
    """All that is asked and answered about them."""
    yield from (" person", " car", " backpack", "query", "detect", "point", "describe", "short", "normal", "long")
    yield lessons.DESCRIBE
    yield from (wording for lesson in lessons.absent() for wording in lesson.wordings)
    for truth in truths:
        every = (lessons.closed, lessons.counts, lessons.choices)
        for lesson in (one for group in every for one in group(truth)):
            yield from (*lesson.wordings, lesson.answer, *lesson.choices)
        yield from lessons.captions(truth).values()


class Pupil(nn.Module):
    """The model, as it is while it learns."""

    def __init__(self, config: MoondreamConfig) -> None:
        super().__init__()
        self.model = Moondream(config)
        self.patches = PatchHead(config.vision.enc_dim)
        self.model.rotary = rotary_table(config.text)
        self._config = config
        _initialise(self.model)

    def features(self, pixels: npt.NDArray[np.uint8]) -> Tensor:
        return self.model.vision.encode(self.model.vision.normalised(torch.from_numpy(pixels), torch.float32))

    def patch_loss(self, pixels: npt.NDArray[np.uint8], told: Patches, seen: npt.NDArray[np.int64]) -> Tensor:
        """Of an encoder that sees these patches alone, [pictures, count]."""
        vision, places = self.model.vision, torch.from_numpy(seen)[..., None]
        x = vision.patch_emb(vision.normalised(torch.from_numpy(pixels), torch.float32)) + vision.pos_emb
        x = x.gather(1, places.expand(-1, -1, x.shape[-1]))
        for block in vision.blocks:
            x = block(x)
        return self.patches.loss(vision.post_ln(x), told.at(seen))

    def loss(self, features: Tensor, rows: Rows) -> dict[str, Tensor]:
        """Of what is said, and of places and sizes."""
        hidden = self._hidden(features, rows)
        told = torch.from_numpy(rows.says) != NOTHING
        logits = self.model.text.logits(hidden[told])
        weights = torch.from_numpy(rows.weights)[told]
        each = functional.cross_entropy(logits, torch.from_numpy(rows.says)[told], reduction="none")
        losses = {"words": (each * weights).sum() / weights.sum()}
        coords = torch.from_numpy(rows.coords)
        if (here := coords != NOTHING).any():
            bins = coords[here] * self._config.region.coord_out_dim
            losses["coords"] = _soft_loss(self.model.region.coord_logits(hidden[here]), bins - 0.5, COORD_SPREAD)
        sizes = torch.from_numpy(rows.sizes)
        if (here := sizes[..., 0] != NOTHING).any():
            last = self._config.region.size_out_dim // 2 - 1
            bins = (sizes[here].clamp_min(1 / 1024).log2() + 10) / 10 * last
            losses["sizes"] = _soft_loss(self.model.region.size_logits(hidden[here]), bins, SIZE_SPREAD)
        return losses

    def _hidden(self, features: Tensor, rows: Rows) -> Tensor:
        """[rows, SLOTS, dim] behind the picture."""
        model, text = self.model, self.model.text
        images = model.vision.project(torch.cat([features, features], dim=-1))
        bos = text.wte[0].expand(len(images), 1, -1)
        x = torch.cat([bos, images, self._embedded(rows)], dim=1)
        prefix = self._config.prefix_len
        positions = torch.cat([torch.arange(prefix).expand(len(images), -1), torch.from_numpy(rows.positions)], dim=1)
        hidden = text(x, model.rotary[positions], _Seen(torch.from_numpy(rows.question), prefix))
        return hidden[:, prefix:]

    def _embedded(self, rows: Rows) -> Tensor:
        model = self.model
        x = model.text.wte[torch.from_numpy(rows.ids)]
        kinds, values = torch.from_numpy(rows.kinds), torch.from_numpy(rows.values)
        for kind, numbers, region, frequencies in (
            (COORD, 1, model.region.coord_encoder, model.region.coord_features),
            (SIZE, 2, model.region.size_encoder, model.region.size_features),
        ):
            if (here := kinds == kind).any():
                x = x.index_put((here,), region(fourier_features(values[here][:, :numbers], frequencies)))
        return x


class _Seen:
    """Attention of whole rows: the picture sees itself, a question the picture and its own earlier slots."""

    def __init__(self, question: Tensor, prefix: int) -> None:
        slots = question.shape[1]
        own = (question[:, :, None] == question[:, None, :]) & torch.ones(slots, slots, dtype=torch.bool).tril()
        self._hidden = ~own[:, None]
        self._prefix = prefix

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        end = self._prefix
        picture = functional.scaled_dot_product_attention(q[:, :, :end], k[:, :, :end], v[:, :, :end])
        scores = (q[:, :, end:] * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
        scores[..., end:].masked_fill_(self._hidden, float("-inf"))
        return torch.cat([picture, scores.softmax(-1) @ v], dim=2)


def _soft_loss(logits: Tensor, at: Tensor, spread: float) -> Tensor:
    """Against a bell around `at`, which is in bins."""
    bins = torch.arange(logits.shape[-1])
    target = (-0.5 * ((bins - at[..., None]) / spread) ** 2).softmax(-1)
    return -(target * logits.log_softmax(-1)).sum(-1).mean()


def _initialise(model: Moondream) -> None:
    """Residual outputs at half their scale; positions as sines over the grid."""
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(parameter)
        elif parameter.dim() == 2 and "features" not in name:
            scale = 0.5 if name.endswith(("proj.weight", "mlp.fc2.weight")) else 1.0
            nn.init.normal_(parameter, std=scale * (0.02 if "wte" in name else parameter.shape[1] ** -0.5))
    nn.init.normal_(model.region.coord_features, std=2.0)
    nn.init.normal_(model.region.size_features, std=math.sqrt(2.0))
    grid, dim = model.config.vision.grid, model.config.vision.enc_dim
    angles = torch.arange(grid)[:, None] / 100 ** (torch.arange(dim // 4) / (dim // 4))
    waves = torch.cat([angles.sin(), angles.cos()], dim=-1)
    both = torch.cat([waves[:, None].expand(-1, grid, -1), waves[None].expand(grid, -1, -1)], dim=-1)
    with torch.no_grad():
        model.vision.pos_emb.copy_(0.5 * both.reshape(1, grid * grid, dim))


def _begin_as_nothing(pupil: Pupil, added: Collection[str]) -> None:
    """Of a checkpoint that had fewer layers: those that are new add nothing yet, so that it goes on as it was."""
    with torch.no_grad():
        for name, parameter in pupil.named_parameters():
            if name in added and (".proj." in name or ".fc2." in name):
                parameter.zero_()


def _optimizers(pupil: Pupil) -> list[torch.optim.Optimizer]:
    """Muon for the matrices within; embeddings, heads, biases and scales are AdamW's."""
    named = dict(pupil.named_parameters())
    matrices = {name: one for name, one in named.items() if one.dim() == 2}
    within = {name: one for name, one in matrices.items() if ".blocks." in name or ".proj_mlp." in name}
    threefold = [one for name, one in within.items() if name.endswith("qkv.weight")]
    single = [one for name, one in within.items() if not name.endswith("qkv.weight")]
    others = [one for name, one in named.items() if name not in within]
    decayed = {"params": [one for one in others if one.dim() > 1], "weight_decay": WEIGHT_DECAY}
    free = {"params": [one for one in others if one.dim() <= 1], "weight_decay": 0.0}
    return [
        Muon([{"params": threefold, "parts": 3}, {"params": single}], lr=MUON_RATE, weight_decay=WEIGHT_DECAY),
        torch.optim.AdamW([decayed, free], lr=LEARNING_RATE, betas=(0.9, 0.98)),
    ]


@dataclass(slots=True)
class Progress:
    """Of the training: steps taken, and the processor's seconds that they took."""

    steps: int = 0
    cpu_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Batch:
    """What is learned in one step: pictures [BATCH, side, side, 3] in RGB, what their patches show, and either what is
    asked, or the patches that the encoder alone sees of each, [BATCH, count]."""

    pixels: npt.NDArray[np.uint8]
    told: Patches
    task: Rows | npt.NDArray[np.int64]


class Training:
    """Kept in a folder: tokenizer and configuration at its start, a checkpoint now and then, the weights at its
    end."""

    def __init__(self, pool: Path, folder: Path, steps: tuple[int, int], seed: int = 0) -> None:
        torch.manual_seed(seed)
        self._folder = folder
        self._first_steps, self._last_step = steps[0], sum(steps)
        self._pictures, self._truths = read_pool(pool, SIDE_PX)
        self._rng = np.random.default_rng(seed)
        self._varied = Varied(SIDE_PX, self._rng)
        self.progress = Progress()
        tokenizer = self._tokenizer()
        self.config = tiny_config(tokenizer)
        self._teacher = Teacher(Tokens(tokenizer, self.config), self.config, self._rng)
        self.pupil = Pupil(self.config)
        self._optimizers = _optimizers(self.pupil)
        self._resume()

    def _tokenizer(self) -> Tokenizer:
        file = self._folder / "tokenizer.json"
        if not file.exists():
            self._folder.mkdir(parents=True, exist_ok=True)
            tiny_tokenizer(list(texts_of(self._truths[:4000]))).save(str(file))
        return Tokenizer.from_file(str(file))

    @property
    def _checkpoint(self) -> Path:
        return self._folder / "checkpoint.pt"

    def _resume(self) -> None:
        if not self._checkpoint.exists():
            return
        kept = torch.load(self._checkpoint, weights_only=True)  # our own file; and no code in it even so
        added = {name for name in self.pupil.state_dict() if ".blocks." in name and name not in kept["pupil"]}
        fresh = {name: one for name, one in self.pupil.state_dict().items() if name in added}
        self.pupil.load_state_dict(kept["pupil"] | fresh)
        if added:
            _begin_as_nothing(self.pupil, added)
        else:
            for optimizer, state in zip(self._optimizers, kept["optimizers"], strict=True):
                optimizer.load_state_dict(state)
        self.progress = Progress(**kept["progress"])
        self._rng = np.random.default_rng([1, self.progress.steps])
        self._varied = Varied(SIDE_PX, self._rng)

    def keep(self) -> None:
        kept = {
            "pupil": self.pupil.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self._optimizers],
            "progress": {name: getattr(self.progress, name) for name in Progress.__dataclass_fields__},
        }
        unfinished = self._checkpoint.with_suffix(".part")
        torch.save(kept, unfinished)
        os.replace(unfinished, self._checkpoint)
        self.write()

    def write(self) -> None:
        """The model as the engine loads it, in half precision."""
        (self._folder / "config.json").write_text(json.dumps(self.config.model_dump(), indent=1) + "\n")
        weights = {name: one.detach().half().contiguous() for name, one in self.pupil.model.named_parameters()}
        save_file({f"model.{name}": one for name, one in weights.items()}, self._folder / "model.safetensors")

    def run(self, keep_every_s: float = 120.0) -> None:
        kept_at = told_at = time.monotonic()
        cpu_before_s = time.process_time() - self.progress.cpu_s
        sums: dict[str, float] = {}
        count = 0
        for batch in self._batches():
            for name, value in self._step(batch).items():
                sums[name] = sums.get(name, 0.0) + value
            count += 1
            now = time.monotonic()
            self.progress.cpu_s = time.process_time() - cpu_before_s
            if now - told_at > 30:
                told = ", ".join(f"{name} {value / count:.3f}" for name, value in sums.items())
                speed = count * BATCH / (now - told_at)
                cpu = f"{self.progress.cpu_s / 60:.1f} min of CPU"
                print(f"step {self.progress.steps}, {cpu}, {speed:.0f}/s: {told}", flush=True)
                told_at, count, sums = now, 0, {}
            if now - kept_at > keep_every_s:
                self.keep()
                kept_at = now
        self.keep()

    def _batches(self) -> Iterator[Batch]:
        """To the last step. Each is made while the one before it is learned."""
        with ThreadPoolExecutor(1) as maker:
            ahead = maker.submit(self._batch, self.progress.steps)
            for step in range(self.progress.steps, self._last_step):
                batch, ahead = ahead.result(), maker.submit(self._batch, step + 1)
                yield batch

    def _step(self, batch: Batch) -> Mapping[str, float]:
        self._set_rate()
        if isinstance(batch.task, Rows):
            features = self.pupil.features(batch.pixels)
            losses = {"patches": self.pupil.patches.loss(features, batch.told)} | self.pupil.loss(features, batch.task)
        else:
            losses = {"patches": self.pupil.patch_loss(batch.pixels, batch.told, batch.task)}
        weights = {"patches": 0.5 if isinstance(batch.task, Rows) else 1.0, "words": 2.0, "coords": 1.0, "sizes": 0.5}
        total = torch.stack([weights[name] * loss for name, loss in losses.items()]).sum()
        self.pupil.zero_grad(set_to_none=True)
        total.backward()
        nn.utils.clip_grad_norm_([one for one in self.pupil.parameters() if one.grad is not None], 1.0)
        for optimizer in self._optimizers:
            optimizer.step()
        self.progress.steps += 1
        return {name: loss.item() for name, loss in losses.items()}

    def _set_rate(self) -> None:
        """Each phase has a cosine of its own: a decoder that begins with what is left of the encoder's learns where
        things are many times as slowly."""
        first = self.progress.steps < self._first_steps
        step = self.progress.steps if first else self.progress.steps - self._first_steps
        steps = self._first_steps if first else self._last_step - self._first_steps
        warmth = min(1.0, (step + 1) / WARM_UP_STEPS)
        cosine = FLOOR + (1 - FLOOR) * 0.5 * (1 + math.cos(math.pi * step / steps))
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                group["lr"] = optimizer.defaults["lr"] * cosine * warmth

    def _batch(self, step: int) -> Batch:
        pixels, truths = self._drawn()
        told = patches_of(truths, self.config.vision.grid)
        if step < self._first_steps:
            return Batch(pixels, told, told.some(round(SHOWN * self.config.vision.grid**2), self._rng))
        rows = [self._teacher.row(truth) for truth in truths]
        return Batch(pixels, told, stacked(rows, self.config.prefix_len))

    def _drawn(self) -> tuple[npt.NDArray[np.uint8], list[Truth]]:
        """At random, each varied."""
        chosen = np.sort(self._rng.integers(len(self._truths), size=BATCH))
        drawn = [self._varied(self._pictures[number], self._truths[number]) for number in chosen]
        return np.stack([picture for picture, _ in drawn]), [truth for _, truth in drawn]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pool", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--first-steps", type=int, default=FIRST_STEPS, help="for the encoder alone")
    parser.add_argument("--second-steps", type=int, default=SECOND_STEPS, help="for everything")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    Training(args.pool, args.folder, (args.first_steps, args.second_steps)).run()


if __name__ == "__main__":
    main()
