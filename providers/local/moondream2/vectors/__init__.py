"""Compares this engine with recorded answers of the reference, step by step, each of which isolates the next.

A folder of such vectors holds a whole small model, its inputs, and what the reference made of them in float32 on a
CPU: `vectors.json` says what, `golden.safetensors` has the numbers.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import torch

from providers.local.moondream2.vectors import answers, layers, parts
from providers.local.moondream2.vectors.comparison import Comparison
from providers.local.moondream2.vectors.folder import Vectors

STEPS: Mapping[str, Callable[[Vectors, Comparison], None]] = {
    "prompts": parts.prompts,
    "tiling and resizing": parts.pictures,
    "small parts": parts.units,
    "one picture, layer by layer": layers.trace,
    "vision and prefix of every picture": layers.vision,
    "answers, each alone": answers.alone,
    "answers, all in one batch": answers.together,
    "answers, shuffled and entering late": answers.shuffled,
}


@torch.inference_mode()
def steps(vectors: Vectors, only: Sequence[str] = ()) -> Iterator[Comparison]:
    """Each step in its order, or those that are named."""
    for name, compare in STEPS.items():
        if not only or name in only:
            step = Comparison(name)
            compare(vectors, step)
            yield step


def check(folder: Path, tell: Callable[[str], None], device: str = "cpu", precision: str = "f32") -> bool:
    """Compare everything in the folder, telling a line for each step, and one for each thing that differs. True when
    nothing does. Raises ModelError where the folder can't be used."""
    agrees = True
    for step in steps(Vectors(folder, device, precision)):
        tell(step.line())
        for problem in step.problems:
            tell(f"  DIFFERS {problem}")
        agrees = agrees and not step.problems
    return agrees
