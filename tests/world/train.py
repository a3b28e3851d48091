"""Teaches a YOLO11n, from random weights, what the drawn world looks like, and exports it.

    python -m tests.world.stills FOLDER
    python -m tests.world.train FOLDER OUT.onnx

Needs ultralytics, torch and onnx. Nothing is downloaded and no weights of others are used.
"""

import argparse
import copy
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

for _name, _value in (
    ("YOLO_OFFLINE", "1"),
    ("YOLO_AUTOINSTALL", "false"),
    ("ULTRALYTICS_SKIP_REQUIREMENTS_CHECKS", "1"),
    ("YOLO_VERBOSE", "false"),
    ("OMP_NUM_THREADS", str(os.cpu_count())),
):
    os.environ.setdefault(_name, _value)

import numpy as np  # noqa: E402 - the environment must be set before ultralytics is imported
import torch  # noqa: E402
from ultralytics import YOLO, settings  # noqa: E402
from ultralytics.cfg import get_cfg  # noqa: E402
from ultralytics.nn.tasks import DetectionModel  # noqa: E402

from tests.world.batches import Sample, Samples  # noqa: E402
from tests.world.shrink import shrink  # noqa: E402
from tests.world.stills import LABELS  # noqa: E402

BATCH = 16
PEAK_RATE = 2e-3
WARMUP_STEPS = 150
WEIGHT_DECAY = 5e-4
AVERAGE_STEPS = 400.0
"""The averaged weights, which are exported, forget with this time constant, once they are old enough."""
SIZES_PX = ((192, 320), (256, 416), (288, 512))
"""Inputs, height and width: the small ones first, since they teach the same for less."""


class Batches(torch.utils.data.IterableDataset[Any]):  # type: ignore[misc]
    """All batches of a training, in order; made in a process beside the training."""

    def __init__(self, samples: Samples, first: int, steps: int) -> None:
        self._samples, self._first, self._steps = samples, first, steps

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for step in range(self._first, self._steps):
            height_px, width_px = size_at(step, self._steps)
            numbers = range(step * BATCH, (step + 1) * BATCH)
            yield collate([self._samples.sample(number, height_px, width_px) for number in numbers])


def size_at(step: int, steps: int) -> tuple[int, int]:
    """Small inputs for the first half, then mostly the middle one."""
    if step < 0.45 * steps:
        return SIZES_PX[0]
    return SIZES_PX[2] if step % 4 == 0 else SIZES_PX[1]


def collate(samples: list[Sample]) -> dict[str, Any]:
    """What ultralytics' loss takes: rows of all pictures in one table, with the number of their picture."""
    rows = np.concatenate([sample.rows for sample in samples])
    owners = np.concatenate([np.full(len(sample.rows), number) for number, sample in enumerate(samples)])
    pictures = np.stack([sample.picture for sample in samples])[:, :, :, ::-1].transpose(0, 3, 1, 2)
    return {
        "img": torch.from_numpy(np.ascontiguousarray(pictures)),
        "cls": torch.from_numpy(rows[:, :1].copy()),
        "bboxes": torch.from_numpy(rows[:, 1:].copy()),
        "batch_idx": torch.from_numpy(owners.astype(np.float32)),
    }


def new_model() -> Any:
    """A YOLO11n with random weights and our classes."""
    model = DetectionModel("yolo11n.yaml", nc=len(LABELS), verbose=False)
    model.args = get_cfg()
    model.names = dict(enumerate(LABELS))
    return model.to(memory_format=torch.channels_last)


def rate_at(step: int, steps: int) -> float:
    """Share of the peak learning rate: a ramp, then half a cosine to 1 %."""
    ramp = min(1.0, (step + 1) / WARMUP_STEPS)
    return ramp * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * step / steps)))


def optimizer_of(model: Any) -> Any:
    """Biases and norms aren't decayed."""
    decayed = [weight for weight in model.parameters() if weight.requires_grad and weight.ndim > 1]
    others = [weight for weight in model.parameters() if weight.requires_grad and weight.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": WEIGHT_DECAY}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=PEAK_RATE, betas=(0.9, 0.99))


def full_precision(value: Any) -> Any:
    """The loss is computed in float32 whatever the network computed in."""
    if isinstance(value, dict):
        return {key: full_precision(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [full_precision(part) for part in value]
    return value.float()


def train(samples: Samples, steps: int, save: Path, resume: bool) -> Any:
    """Returns the averaged model; each 200 steps a checkpoint is kept, so that a stopped training goes on."""
    torch.manual_seed(0)
    model = new_model().train()
    average, optimizer = copy.deepcopy(model), optimizer_of(model)
    first = _load(save, model, average, optimizer) if resume and save.exists() else 0
    batches = torch.utils.data.DataLoader(
        Batches(samples, first, steps), batch_size=None, num_workers=1, prefetch_factor=4
    )
    started_s, shown = time.monotonic(), {"box_loss": 0.0, "cls_loss": 0.0, "dfl_loss": 0.0}
    for step, batch in enumerate(batches, start=first):
        for group in optimizer.param_groups:
            group["lr"] = PEAK_RATE * rate_at(step, steps)
        losses = learn(model, optimizer, batch)
        follow(average, model, step)
        shown = {key: 0.95 * shown[key] + 0.05 * losses[key] for key in shown}
        if (step + 1) % 50 == 0:
            pace = (step + 1 - first) * BATCH / (time.monotonic() - started_s)
            print(
                step + 1,
                {key: round(value, 3) for key, value in shown.items()},
                f"{pace:.1f} pictures/s",
                flush=True,
            )
        if (step + 1) % 200 == 0 or step + 1 == steps:
            _save(save, model, average, optimizer, step + 1)
    return average


def learn(model: Any, optimizer: Any, batch: dict[str, Any]) -> dict[str, float]:
    """One step; returns the losses by name. Computes in bfloat16, which CPUs with AMX do twice as fast."""
    pictures = batch["img"].to(memory_format=torch.channels_last).float() / 255
    with torch.autocast("cpu", torch.bfloat16):
        outputs = model(pictures)
    loss, parts = model.loss({**batch, "img": pictures}, full_precision(outputs))
    optimizer.zero_grad()
    loss.sum().backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
    optimizer.step()
    return {key: float(value) for key, value in parts.items()}


@torch.no_grad()  # type: ignore[untyped-decorator]
def follow(average: Any, model: Any, step: int) -> None:
    """Move the average towards the model; at first it follows closely."""
    keep = min(1 - 1 / AVERAGE_STEPS, (1 + step) / (10 + step))
    for kept, now in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
        if kept.dtype.is_floating_point:
            kept.mul_(keep).add_(now, alpha=1 - keep)
        else:
            kept.copy_(now)


def _save(path: Path, model: Any, average: Any, optimizer: Any, step: int) -> None:
    parts = {
        "model": model.state_dict(),
        "average": average.state_dict(),
        "optimizer": optimizer.state_dict(),
        "step": step,
    }
    torch.save(parts, path)


def _load(path: Path, model: Any, average: Any, optimizer: Any) -> int:
    parts = torch.load(path, weights_only=True)
    model.load_state_dict(parts["model"])
    average.load_state_dict(parts["average"])
    optimizer.load_state_dict(parts["optimizer"])
    return int(parts["step"])


def export(average: Any, out: Path) -> None:
    """Raw layout, any batch and any size in steps of 32 px; weights stored in half precision."""
    yolo = YOLO("yolo11n.yaml")
    yolo.model = copy.deepcopy(average).to(memory_format=torch.contiguous_format).eval()
    yolo.model.args, yolo.model.task = vars(yolo.model.args), "detect"
    yolo.model.pt_path = str(out.with_suffix(".full.pt"))
    height_px, width_px = SIZES_PX[1]
    full = Path(
        yolo.export(format="onnx", imgsz=[height_px, width_px], dynamic=True, simplify=False, opset=17, device="cpu")
    )
    shrink(full, out, rows=4 + len(LABELS))
    full.unlink()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="stills, as tests.world.stills writes them")
    parser.add_argument("out", type=Path, help="the .onnx to write; its checkpoint stands beside it")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint")
    args = parser.parse_args()
    settings.update({"sync": False})
    torch.set_num_threads(os.cpu_count() or 1)
    average = train(Samples(args.folder), args.steps, args.out.with_suffix(".ckpt"), args.resume)
    export(average, args.out)


if __name__ == "__main__":
    main()
