"""Compares this engine with recorded answers of the reference, step by step, each of which isolates the next.

A folder of such vectors holds a whole small model, its inputs, and what the reference made of them in float32 on a
CPU: `vectors.json` says what, `golden.safetensors` has the numbers.
"""

import hashlib
import json
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from providers.local.answers import Answer, Found
from providers.local.devices import precision_of
from providers.local.engine import Reference
from providers.local.errors import ModelError
from providers.local.moondream2 import skills
from providers.local.moondream2.batch import Batch, Entry, kept_probabilities
from providers.local.moondream2.cache import Prefix, PrefixPass
from providers.local.moondream2.config import MoondreamConfig, load_config
from providers.local.moondream2.crops import Crops, crops_of, tiling
from providers.local.moondream2.engine import placed
from providers.local.moondream2.model import Moondream
from providers.local.moondream2.skills import ChooseToken, ReadExtent, ReadPlace, Sampling, Skill, Step, Token
from providers.local.moondream2.text import rotary_table, turned
from providers.local.moondream2.tokens import Tokens, load_tokens
from providers.local.moondream2.vision import averaging
from providers.local.moondream2.weights import load_model

FORMAT = "moondream2-golden-1"
TEXT_STOPS = {"eos": "stop", "max_tokens": "length", "max_objects": "length"}
EXACT = 1e-9
"""Of boxes and points, when their bins are the same."""


@dataclass(slots=True)
class Comparison:
    """One step of the comparison."""

    name: str
    worst: float = 0.0
    share: float = 0.0
    """Of what the tolerance allows."""
    where: str = ""
    compared: int = 0
    problems: list[str] = field(default_factory=list)

    def close(self, where: str, ours: Tensor, theirs: Tensor, tolerance: float) -> None:
        self.compared += 1
        if ours.shape != theirs.shape:
            self.problems.append(f"{where}: shape {list(ours.shape)}, expected {list(theirs.shape)}")
            return
        worst = float((ours.double() - theirs.double()).abs().max()) if ours.numel() else 0.0
        if not worst <= self.worst:
            self.worst, self.where = worst, where
        self.share = max(self.share, worst / tolerance)
        if not worst <= tolerance:
            self.problems.append(f"{where}: differs by {worst:.3g}, allowed is {tolerance:g}")

    def same(self, where: str, ours: object, theirs: object) -> None:
        self.compared += 1
        if ours != theirs:
            self.problems.append(f"{where}: {ours!r}, expected {theirs!r}")

    def line(self) -> str:
        worst = f"largest difference {self.worst:.2g} ({self.share:.0%} of what is allowed; {self.where})"
        return f"{self.name}: {self.compared} compared, {worst if self.where else 'all discrete'}"


class Vectors:
    """A folder, and the model in it. Raises ModelError where it is none."""

    def __init__(self, folder: Path, device: str = "cpu", precision: str = "f32") -> None:
        self.folder = folder
        try:
            self.index: Mapping[str, Any] = json.loads((folder / "vectors.json").read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise ModelError(f"{folder / 'vectors.json'}: {error}") from error
        if self.index.get("format") != FORMAT:
            raise ModelError(f"{folder}: format {self.index.get('format')!r}; this program knows {FORMAT!r}")
        self._check_files()
        self.golden: Mapping[str, Tensor] = load_file(folder / "golden.safetensors")
        self.config: MoondreamConfig = load_config(folder / "config.json")
        self.tokens: Tokens = load_tokens(folder / "tokenizer.json", self.config)
        torch.backends.cuda.matmul.allow_tf32 = False
        self.model: Moondream = load_model(
            self.config,
            folder / "weights.safetensors",
            torch.device(device),
            precision_of(precision, torch.device(device)),
        )
        self.allowed: Mapping[str, float] = self.index["tolerances"]["recommended_atol_float32"]
        self.crops: dict[str, Crops] = {}

    def _check_files(self) -> None:
        for name, told in self.index["files"].items():
            content = (self.folder / name).read_bytes()
            if hashlib.sha256(content).hexdigest() != told["sha256"]:
                raise ModelError(f"{self.folder / name}: not the file that vectors.json tells of")

    @torch.inference_mode()
    def check(self, only: Sequence[str] = ()) -> Iterator[Comparison]:
        """Each step in its order, or those that are named."""
        self._cut()
        for name, compare in (
            ("prompts", self._prompts),
            ("tiling and resizing", self._pictures),
            ("small parts", self._units),
            ("one picture, layer by layer", self._trace),
            ("vision and prefix of every picture", self._vision),
            ("answers, each alone", self._alone),
            ("answers, all in one batch", self._together),
            ("answers, shuffled and entering late", self._shuffled),
        ):
            if not only or name in only:
                step = Comparison(name)
                compare(step)
                yield step

    def _cut(self) -> None:
        for told in self.index["images"]:
            with Image.open(self.folder / told["file"]) as picture:
                self.crops[told["name"]] = crops_of(picture, self.config.vision)

    # ------------------------------------------------------------------------------------------- prompts, pictures

    def _prompts(self, step: Comparison) -> None:
        told = self.index["units"]["official_prompts"]
        stand_in = _StandIn(self.tokens, told["text_ids"])
        ours = {
            "query": stand_in.query("-"),
            "query_reasoning": stand_in.query("-", reasoning=True),
            "query_text_only": [stand_in.ids.bos_id, *stand_in.query("-")],
            "query_with_point_and_box": stand_in.query("-", [(0.1, 0.2), (0.1, 0.2, 0.3, 0.4)]),
            "detect": stand_in.detect("-"),
            "point": stand_in.point("-"),
            **{f"caption_{length}": stand_in.caption(length) for length in ("short", "normal", "long")},
            "answer_after_reasoning": [stand_in.ids.answer_id],
        }
        for name, ids in ours.items():
            step.same(name, ids, told[name])
        for case in self._cases():
            step.same(case.key, case.prompt, case.told["prompt_ids"])

    def _pictures(self, step: Comparison) -> None:
        for told in self.index["units"]["tiling"]:
            ours = tiling(told["width"], told["height"], self.config.vision)
            step.same(f"{told['width']} x {told['height']}", list(ours), told["tiling_hw"])
        for told in self.index["images"]:
            crops = self.crops[told["name"]]
            pixels = np.concatenate([crops.pixels] * 2) if crops.is_whole else crops.pixels
            step.same(f"{told['name']} tiling", [crops.rows, crops.cols], told["tiling_hw"])
            step.same(f"{told['name']} pixels", hashlib.sha256(pixels.tobytes()).hexdigest(), told["crops_sha256"])

    # --------------------------------------------------------------------------------------------------- small parts

    def _units(self, step: Comparison) -> None:
        units, golden, region, allowed = self.index["units"], self.golden, self.model.region, self.allowed
        table = rotary_table(self.config.text)
        told = units["rope_table"]
        step.close("rope_table", table[told["positions"]], golden[told["array"]], allowed["unit_rope"])
        told = units["rope"]
        ours = interleaved(turned(golden[told["in"]][None], table[told["positions"]][None])[0], table.shape[1])
        step.close("rope", ours, golden[told["out"]], allowed["unit_rope"])
        at = self.model.device
        coords = region.encode_coords(torch.tensor(units["coord_embed"]["x"], device=at)[:, None]).cpu()
        step.close("coord_embed", coords, golden[units["coord_embed"]["array"]], allowed["unit_other"])
        sizes = region.encode_sizes(torch.tensor(units["size_embed"]["wh"], device=at)).cpu()
        step.close("size_embed", sizes, golden[units["size_embed"]["array"]], allowed["unit_other"])
        hidden, loose = golden["unit.hidden_in"].to(at), allowed["unit_region_and_head_logits"]
        step.close("coord_logits", region.coord_logits(hidden).cpu(), golden["unit.coord_logits"], loose)
        step.close("size_logits", region.size_logits(hidden).flatten(1).cpu(), golden["unit.size_logits"], loose)
        step.close("lm_logits", self.model.text.logits(hidden).cpu(), golden["unit.lm_logits"], loose)
        for told in units["coord_bins"]:
            step.same(f"coordinate of bin {told['bin']}", region.coord(told["bin"]), told["value"])
        for told in units["size_bins"]:
            ours = torch.tensor(region.size(told["bin"]))
            step.close(f"size of bin {told['bin']}", ours, torch.tensor(told["value"]), EXACT)
        for told in units["top_p"]:
            kept = kept_probabilities(torch.tensor(told["logits"]), Sampling(told["temperature"], told["top_p"]))
            step.close("top_p", kept, torch.tensor(told["probabilities"]), allowed["unit_other"])
        for told in units["reconstruct"]:
            self._stitching(step, told)

    def _stitching(self, step: Comparison, told: Mapping[str, Any]) -> None:
        rows, cols = told["tiling_hw"]
        grid = self.config.vision.grid
        parts = torch.arange(rows * cols * grid * grid, dtype=torch.float64).view(rows * cols, grid * grid, 1)
        canvas = self.model.vision.stitched(parts, rows, cols)[..., 0]
        step.close(f"stitched {rows} x {cols}", canvas, self.golden[told["array"]], 0.5)
        down, across = (averaging(size, grid).double() for size in canvas.shape)
        pooled = down @ canvas @ across.T
        theirs = self.golden[told["pooled"]]
        step.close(f"pooled {rows} x {cols}", pooled / theirs.abs().max(), theirs / theirs.abs().max(), 1e-6)

    # ------------------------------------------------------------------------------------------------ layer by layer

    def _trace(self, step: Comparison) -> None:
        """The fourth picture's first part, and its prefix."""
        vision, text = self.model.vision, self.model.text
        name = self.index["images"][3]["name"]
        patches, slots = [0, 1, 2, 3, 364, 728], [0, 1, 2, 365, 729]
        seen: dict[str, Tensor] = {}
        hooks = [vision.patch_emb.register_forward_hook(_into(seen, "patch_emb"))]
        for index in (0, 13, 26):
            hooks.append(vision.blocks[index].register_forward_hook(_into(seen, f"vision_block{index:02}_out")))
        hooks.append(vision.blocks[0].attn.proj.register_forward_hook(_into(seen, "vision_block00_attn")))
        hooks.append(vision.post_ln.register_forward_hook(_into(seen, "vision_post_ln")))
        for index, block in enumerate(text.blocks):
            hooks.append(block.attn.proj.register_forward_hook(_into(seen, f"text_block{index}_attn")))
            hooks.append(block.mlp.register_forward_hook(_into(seen, f"text_block{index}_mlp")))
        try:
            pixels = torch.from_numpy(self.crops[name].pixels).to(self.model.device)
            seen["patches"] = vision.normalised(pixels, torch.float32)
            x, prefix = self._prefixed(self.crops[name])[::2]
        finally:
            for hook in hooks:
                hook.remove()
        seen["patch_plus_pos"] = seen["patch_emb"] + vision.pos_emb
        for what, kept in seen.items():
            if not what.startswith("text"):
                self._close(step, f"trace.{what}_crop1", kept[1, patches], "trace")
        self._close(step, "trace.text_inputs", x[0, slots], "trace")
        for index in range(len(text.blocks)):
            x = x + seen[f"text_block{index}_attn"] + seen[f"text_block{index}_mlp"]
            self._close(step, f"trace.text_block{index}_attn", seen[f"text_block{index}_attn"][0, slots], "trace")
            self._close(step, f"trace.text_block{index}_mlp", seen[f"text_block{index}_mlp"][0, slots], "trace")
            self._close(step, f"trace.text_block{index}_out", x[0, slots], "trace")
            keys = interleaved(prefix.keys[index][:, slots], self.model.rotary.shape[1])
            self._close(step, f"trace.text_block{index}_k_cache", keys, "trace")
            self._close(step, f"trace.text_block{index}_v_cache", prefix.values[index][:, slots], "trace")

    def _prefixed(self, crops: Crops) -> tuple[Tensor, Tensor, Prefix]:
        """The slots of a picture, what the decoder makes of them, and what it keeps."""
        model = self.model
        embeddings = model.vision([crops])
        bos = model.text.embed(torch.tensor([[self.config.tokenizer.bos_id]], device=model.device))
        x = torch.cat([bos, embeddings], dim=1)
        attend = PrefixPass()
        hidden = model.text(x, model.rotary[None, : x.shape[1]], attend)
        [prefix] = attend.prefixes()
        return x, hidden, prefix

    def _vision(self, step: Comparison) -> None:
        vision = self.model.vision
        for name, crops in self.crops.items():
            features = vision.features(crops.pixels)
            joined = vision.joined(crops, features)
            x, hidden, _ = self._prefixed(crops)
            ours = {
                "vision_global": (features[0], "vision"),
                "vision_local_first": (features[0 if crops.is_whole else 1], "vision"),
                "vision_local_last": (features[-1], "vision"),
                "vision_pooled": (joined[:, joined.shape[1] // 2 :], "vision"),
                "image_embeds": (x[0, 1:], "image_embeds"),
                "prefill_hidden": (hidden[0], "prefill_hidden"),
                "prefill_last_logits": (self.model.text.logits(hidden[0, -1]), "token_logits"),
            }
            for what, (found, tolerance) in ours.items():
                self._close(step, f"img.{name}.{what}", found, tolerance)

    def _close(self, step: Comparison, array: str, ours: Tensor, tolerance: str) -> None:
        theirs = self.golden[array]
        step.close(array, ours.float().cpu().reshape(theirs.shape), theirs, self.allowed[tolerance])

    # -------------------------------------------------------------------------------------------------------- answers

    def _cases(self) -> list["Case"]:
        tokens, index = self.tokens, self.index
        cases: list[Case] = []
        for told in index["query"]:
            cases.append(Case(told, tokens.query(told["question"]), self._answering(told)))
        for told in index["caption"]:
            cases.append(Case(told, tokens.caption(told["length"]), self._answering(told)))
        for told in index["spatial_query"]:
            places = [tuple(place) for place in told["spatial_refs"]]
            cases.append(Case(told, tokens.query(told["question"], places), self._answering(told), places))
        for told in index["text_only_query"]:
            cases.append(Case(told, [tokens.ids.bos_id, *tokens.query(told["question"])], self._answering(told)))
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

    def _answering(self, told: Mapping[str, Any]) -> Callable[[], Skill[Answer]]:
        return _later(skills.answer, self.tokens, told["max_tokens"])

    def _alone(self, step: Comparison) -> None:
        prefixes: dict[str, Prefix] = {}
        for case in self._cases():
            states: dict[Hashable, list[tuple[Step, Tensor]]] = {}
            batch = Batch(self.model, watch=_noting(states))
            if case.picture not in prefixes:
                prefixes |= self._prefixes_of(batch, [case])
            done = dict(batch.enter([self._entry(case, prefixes)]))
            while len(batch):
                done |= dict(batch.step())
            self._compare(step, case, done[case.key])
            self._compare_states(step, case, states[case.key])

    def _together(self, step: Comparison) -> None:
        states: dict[Hashable, list[tuple[Step, Tensor]]] = {}
        batch, cases = Batch(self.model, watch=_noting(states)), self._cases()
        prefixes = self._prefixes_of(batch, cases)
        done = dict(batch.enter([self._entry(case, prefixes) for case in cases]))
        while len(batch):
            done |= dict(batch.step())
        for case in cases:
            self._compare(step, case, done[case.key])
            self._compare_states(step, case, states[case.key])

    def _shuffled(self, step: Comparison) -> None:
        """A few rows enter at each step, beside rows of any age."""
        random, batch, cases = Random(0), Batch(self.model), self._cases()
        prefixes = self._prefixes_of(batch, cases)
        waiting = random.sample(cases, len(cases))
        done: dict[Hashable, Any] = {}
        while waiting or len(batch):
            entering, waiting = waiting[:3], waiting[3:]
            if entering:
                done |= dict(batch.enter([self._entry(case, prefixes) for case in entering]))
            done |= dict(batch.step())
        for case in cases:
            self._compare(step, case, done[case.key])
        for row in self.index["batch"]["rows"]:
            ours = done[row["query_key"]]
            step.same(f"batch {row['query_key']}", [list(ours.tokens), ours.text], [row["tokens"], row["text"]])

    def _prefixes_of(self, batch: Batch, cases: Sequence["Case"]) -> dict[str, Prefix]:
        names = list(dict.fromkeys(case.picture for case in cases if case.picture))
        return dict(zip(names, batch.encode([self.crops[name] for name in names]), strict=True)) if names else {}

    def _entry(self, case: "Case", prefixes: Mapping[str, Prefix]) -> Entry:
        ids = self.tokens.ids
        prompt = placed(case.prompt, case.places, ids.coord_id, ids.size_id)
        return Entry(case.key, prompt, prefixes[case.picture] if case.picture else None, case.skill())

    def _compare(self, step: Comparison, case: "Case", ours: Answer | Found) -> None:
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

    def _compare_states(self, step: Comparison, case: "Case", states: Sequence[tuple[Step, Tensor]]) -> None:
        """The numbers that were recorded behind some of the steps."""
        text, region = self.model.text, self.model.region
        first = states[0][1]
        chosen = [(one, state) for one, state in states if isinstance(one, ChooseToken)]
        answered = next((state for one, state in chosen if one.feed == Token(self.tokens.ids.answer_id)), first)
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
            if (array := f"{case.key}.{what}") in self.golden:
                self._close(step, array, ours(), tolerance)


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


class _StandIn(Tokens):
    """With the templates of the published model, and some words that are always the same."""

    def __init__(self, tokens: Tokens, words: list[int]) -> None:
        super().__init__(tokens._tokenizer, MoondreamConfig())
        self._words = words

    def encode(self, text: str) -> list[int]:
        return self._words


def _later(skill: Callable[..., Skill[Any]], *arguments: object) -> Callable[[], Skill[Any]]:
    return lambda: skill(*arguments)


def _into(kept: dict[str, Tensor], name: str) -> Callable[[object, object, Tensor], None]:
    def keep(_module: object, _inputs: object, output: Tensor) -> None:
        kept[name] = output

    return keep


def _noting(states: dict[Hashable, list[tuple[Step, Tensor]]]) -> Callable[[Hashable, Step, Tensor], None]:
    def note(key: Hashable, step: Step, state: Tensor) -> None:
        states.setdefault(key, []).append((step, state.clone()))

    return note


def interleaved(x: Tensor, half: int) -> Tensor:
    """[…, head_dim] as the reference keeps it: its turned numbers in pairs."""
    pairs = torch.stack([x[..., :half], x[..., half : 2 * half]], dim=-1).flatten(-2)
    return torch.cat([pairs, x[..., 2 * half :]], dim=-1)


def check(folder: Path, tell: Callable[[str], None], device: str = "cpu", precision: str = "f32") -> bool:
    """Compare everything in the folder, telling a line for each step, and one for each thing that differs. True when
    nothing does. Raises ModelError where the folder can't be used."""
    agrees = True
    for step in Vectors(folder, device, precision).check():
        tell(step.line())
        for problem in step.problems:
            tell(f"  DIFFERS {problem}")
        agrees = agrees and not step.problems
    return agrees
