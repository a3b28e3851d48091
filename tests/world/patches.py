"""What each patch of a picture shows: the encoder learns this first, and the language after it.

Without it, half an hour of training on answers alone stays at guessing.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.world.lessons import COLOURS_ASKED, PLACES, Thing, Truth
from tests.world.people import FALLEN
from tests.world.stills import LABELS

CENTRES = ("person", "car", "backpack", "two people", "fallen", "lying bag")
COVERS = ("person", "car", "backpack", "queueing", "meeting")
FINE = 4
"""Parts of a patch's side for which it is told apart what covers them: a bag may be narrower than a patch."""
UNKNOWN = -100
"""Of classes: no loss."""
PARTS = (len(CENTRES), 4 * len(LABELS), len(COVERS) * FINE**2, len(COLOURS_ASKED), len(PLACES), 1)


@dataclass(frozen=True, slots=True)
class Patches:
    """[pictures, grid, grid, …]; `places` and `dark` are of whole pictures. `boxes`: of each label, where in the patch
    its centre is, and the logarithm of its size; they count where `centres` of that label is 1. `covers`: FINE² shares
    for each of COVERS."""

    centres: npt.NDArray[np.float32]
    boxes: npt.NDArray[np.float32]
    covers: npt.NDArray[np.float32]
    colours: npt.NDArray[np.int64]
    places: npt.NDArray[np.int64]
    dark: npt.NDArray[np.float32]

    def some(self, count: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
        """[pictures, count] patches of each: all that show something if there is room, and any others."""
        shown = self.covers.max(-1).reshape(len(self.covers), -1) > 0
        return np.argsort(-(shown + rng.random(shown.shape)), axis=1)[:, :count]

    def at(self, patches: npt.NDArray[np.int64]) -> "Patches":
        """Of these alone: [pictures, count, …]."""

        def taken(every: npt.NDArray[Any]) -> npt.NDArray[Any]:
            flat = every.reshape(len(every), -1, *every.shape[3:])
            return np.take_along_axis(flat, patches.reshape(*patches.shape, *[1] * (flat.ndim - 2)), axis=1)

        each = {name: taken(getattr(self, name)) for name in ("centres", "boxes", "covers", "colours")}
        return replace(self, **each)


def patches_of(truths: Sequence[Truth], grid: int) -> Patches:
    count = len(truths)
    out = Patches(
        centres=np.zeros((count, grid, grid, len(CENTRES)), np.float32),
        boxes=np.zeros((count, grid, grid, len(LABELS), 4), np.float32),
        covers=np.zeros((count, grid, grid, len(COVERS) * FINE**2), np.float32),
        colours=np.full((count, grid, grid), UNKNOWN, np.int64),
        places=np.array([PLACES.index(truth.place) for truth in truths], np.int64),
        dark=np.array([UNKNOWN if truth.dark is None else truth.dark for truth in truths], np.float32),
    )
    for number, truth in enumerate(truths):
        fine = np.zeros((grid * FINE, grid * FINE, len(COVERS)), np.float32)
        for thing in truth.things:
            _mark(out, number, thing, grid)
            _cover(fine, thing)
        split = fine.reshape(grid, FINE, grid, FINE, len(COVERS))
        out.covers[number] = split.transpose(0, 2, 4, 1, 3).reshape(grid, grid, -1)
        if (colour := truth.car_colour) is not None:
            row, col = _cell(truth.of("car")[0], grid)
            covered = split.mean((1, 3))[..., COVERS.index("car")] > 0.5
            covered[row, col] = True
            out.colours[number][covered] = COLOURS_ASKED.index(colour)
    return out


def _cell(thing: Thing, grid: int) -> tuple[int, int]:
    x, y = (thing.box[0] + thing.box[2]) / 2 * grid, (thing.box[1] + thing.box[3]) / 2 * grid
    return min(int(y), grid - 1), min(int(x), grid - 1)


def _mark(out: Patches, number: int, thing: Thing, grid: int) -> None:
    row, col = _cell(thing, grid)
    label = LABELS.index(thing.label)
    x_min, y_min, x_max, y_max = (side * grid for side in thing.box)
    centres = out.centres[number, row, col]
    if thing.label == "person" and centres[label]:
        centres[CENTRES.index("two people")] = 1
    centres[label] = 1
    if thing.activity == FALLEN:
        centres[CENTRES.index("fallen")] = 1
    if thing.activity == "lying" and thing.label == "backpack":
        centres[CENTRES.index("lying bag")] = 1
    out.boxes[number, row, col, label] = (
        (x_min + x_max) / 2 - col,
        (y_min + y_max) / 2 - row,
        np.log(x_max - x_min),
        np.log(y_max - y_min),
    )


def _cover(covers: npt.NDArray[np.float32], thing: Thing) -> None:
    """The share of each square that the box covers; the largest of all boxes of that part."""
    edges = np.arange(covers.shape[0])
    x_min, y_min, x_max, y_max = (side * len(edges) for side in thing.box)
    across = np.clip(np.minimum(x_max, edges + 1) - np.maximum(x_min, edges), 0, 1)
    down = np.clip(np.minimum(y_max, edges + 1) - np.maximum(y_min, edges), 0, 1)
    share = down[:, None] * across[None, :]
    for name in (thing.label, thing.activity):
        if name in COVERS:
            part = covers[:, :, COVERS.index(name)]
            np.maximum(part, share, out=part)


class PatchHead(nn.Module):
    """One linear layer, thrown away afterwards."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, sum(PARTS))

    def loss(self, features: Tensor, told: Patches) -> Tensor:
        """Of features [pictures, patches, dim]."""
        count = features.shape[1]
        centres, boxes, covers, colours, places, dark = self.linear(features).split(PARTS, dim=-1)
        true_centres = torch.from_numpy(told.centres).view(len(features), count, -1)
        true_covers = torch.from_numpy(told.covers).view(len(features), count, -1)
        binary = functional.binary_cross_entropy_with_logits
        loss = 4 * binary(centres, true_centres, pos_weight=torch.tensor(4.0))
        loss = loss + 4 * binary(covers, true_covers, pos_weight=torch.tensor(2.0))
        here = true_centres[..., : len(LABELS)] > 0
        if here.any():
            true_boxes = torch.from_numpy(told.boxes).view(len(features), count, len(LABELS), 4)
            boxes = boxes.view(len(features), count, len(LABELS), 4)
            loss = loss + functional.smooth_l1_loss(boxes[here], true_boxes[here], beta=0.1)
        true_colours = torch.from_numpy(told.colours).view(-1)
        if (true_colours != UNKNOWN).any():
            loss = loss + 0.5 * functional.cross_entropy(colours.flatten(0, 1), true_colours, ignore_index=UNKNOWN)
        everywhere = torch.from_numpy(told.places)[:, None].expand(-1, count).reshape(-1)
        loss = loss + 0.1 * functional.cross_entropy(places.flatten(0, 1), everywhere)
        true_dark = torch.from_numpy(told.dark)
        if (known := true_dark >= 0).any():
            loss = loss + 0.1 * binary(dark[known][..., 0], true_dark[known][:, None].expand(-1, count))
        return loss
