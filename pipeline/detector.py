"""The detector: frames of all cameras through one network, in order of arrival."""

import asyncio
import os
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from pydantic import Field, ValidationInfo, field_validator

from pipeline.letterbox import STRIDE, Letterbox, Picture, draw, fit, smallest_input
from pipeline.yolo import Detections, DetectorError, ModelInfo, Output, decode
from providers.settings import Section

LEFT_OUT = 2.0
"""A threshold that no confidence reaches."""


class DetectorSettings(Section):
    model: Path | None = Field(
        None, description="An exported YOLO .onnx, relative to this file; a .pt needs the extra `models`"
    )
    backend: Literal["auto", "openvino", "onnxruntime", "ultralytics"] = Field(
        "auto", description="auto: by the file and the device"
    )
    device: str = Field("cpu", description="cpu; gpu or npu (OpenVINO); cuda or tensorrt (ONNX Runtime)")
    precision: Literal["auto", "f32"] = Field(
        "auto", description="auto: what the device is fastest at (bfloat16 on a CPU with AMX); f32: exact (OpenVINO)"
    )
    size_px: int = Field(640, ge=STRIDE, le=4096, multiple_of=STRIDE, description="Long side of the network's input")
    confidence: float = Field(0.35, gt=0, lt=1, description="Least confidence of a detection")
    iou: float = Field(0.7, gt=0, le=1, description="Overlap above which two boxes of a class are one object")
    classes: dict[str, float] | None = Field(
        None, description="Only these labels, each with its least confidence: { person = 0.4, car = 0.6 }; empty: all"
    )
    labels: tuple[str, ...] = Field((), description="Class names in order, for a file that does not name them itself")
    streams: int | None = Field(
        None, ge=1, le=64, description="Frames computed at the same time on a CPU; empty: by its cores"
    )

    @field_validator("model")
    @classmethod
    def _beside_the_file(cls, path: Path | None, info: ValidationInfo) -> Path | None:
        base: Path | None = (info.context or {}).get("base_dir")
        return (base / path.expanduser()) if path and base else path

    @field_validator("classes")
    @classmethod
    def _are_confidences(cls, classes: dict[str, float] | None) -> dict[str, float] | None:
        for label, confidence in (classes or {}).items():
            if not 0 < confidence < 1:
                raise ValueError(f"{label}: the least confidence must lie between 0 and 1")
        return classes


class Network(Protocol):
    """A loaded model. `infer` blocks; `streams` threads call it, with up to `max_batch` pictures of one shape."""

    info: ModelInfo
    streams: int
    max_batch: int

    def infer(self, batch: Sequence[Picture]) -> list[Output]: ...

    def forget(self) -> None:
        """Let go of what was prepared for the shapes seen so far."""


@dataclass(slots=True)
class _Job:
    picture: Picture
    letterbox: Letterbox
    done: asyncio.Future[Detections]


class Detector:
    """Hands pictures to the network's threads. A failure is raised to who asked, never an empty answer."""

    def __init__(self, network: Network, settings: DetectorSettings) -> None:
        self.info = network.info
        self.name = settings.model.stem if settings.model else "detector"
        self.fixed_input = network.info.fixed_input
        self.size_px = settings.size_px
        self._network = network
        self._iou = settings.iou
        self._thresholds = thresholds(network.info.labels, settings)
        self._labels = reported_labels(network.info, settings)
        self._jobs: deque[_Job] = deque()
        self._asked_s: dict[asyncio.Future[Detections], float] = {}
        self._ready = threading.Condition()
        self._closing = False

    @property
    def labels(self) -> frozenset[str]:
        """Every label that it can report."""
        return self._labels

    def submit(self, picture: Picture, letterbox: Letterbox) -> asyncio.Future[Detections]:
        """Queue a letterboxed picture; it must stay as it is until the future is done. Raises DetectorError in it."""
        done: asyncio.Future[Detections] = asyncio.get_running_loop().create_future()
        self._asked_s[done] = time.monotonic()
        done.add_done_callback(self._asked_s.pop)
        with self._ready:
            self._jobs.append(_Job(picture, letterbox, done))
            self._ready.notify()
        return done

    def oldest_job_s(self) -> float:
        """For how long the picture that has waited longest is being looked at; 0 when there is none."""
        return time.monotonic() - next(iter(self._asked_s.values())) if self._asked_s else 0.0

    async def look(self, picture: Picture) -> Detections:
        """What is in a picture of any size. Raises DetectorError."""
        height, width = picture.shape[:2]
        input_height, input_width = self.fixed_input or smallest_input(width, height, self.size_px)
        letterbox = fit(width, height, input_height, input_width)
        canvas: Picture = np.empty((input_height, input_width, 3), np.uint8)
        draw(picture, letterbox, canvas)
        return await self.submit(canvas, letterbox)

    def run(self) -> None:
        """A thread's life: take what waits, as one batch where shapes agree, until close."""
        while batch := self._take():
            try:
                outputs = self._network.infer([job.picture for job in batch])
                results: list[Detections | Exception] = [
                    self._decode(output, job) for output, job in zip(outputs, batch, strict=True)
                ]
            except Exception as error:  # noqa: BLE001 - whatever the runtime raises belongs to who asked, not to this thread
                results = [error] * len(batch)
            for job, result in zip(batch, results, strict=True):
                _deliver(job.done, result)

    def close(self) -> None:
        with self._ready:
            self._closing = True
            self._ready.notify_all()

    def _take(self) -> list[_Job]:
        with self._ready:
            while not self._jobs and not self._closing:
                self._ready.wait()
            batch: list[_Job] = []
            while self._jobs and len(batch) < self._network.max_batch:
                if batch and self._jobs[0].picture.shape != batch[0].picture.shape:
                    break
                batch.append(self._jobs.popleft())
            return batch

    def _decode(self, output: Output, job: _Job) -> Detections | Exception:
        try:
            return decode(output, self.info, job.letterbox, self._thresholds, self._iou)
        except DetectorError as error:
            return error


def _deliver(done: asyncio.Future[Detections], result: Detections | Exception) -> None:
    def settle() -> None:
        if done.cancelled():
            return
        if isinstance(result, Exception):
            done.set_exception(result if isinstance(result, DetectorError) else DetectorError(str(result)))
        else:
            done.set_result(result)

    try:
        done.get_loop().call_soon_threadsafe(settle)
    except RuntimeError:
        return  # the loop has ended: nobody waits any more


def thresholds(labels: Sequence[str], settings: DetectorSettings) -> Output:
    """The least confidence of each class. Raises DetectorError for a filter on a label that the model doesn't have."""
    if settings.classes is None:
        return np.full(len(labels), settings.confidence, np.float32)
    if unknown := sorted(set(settings.classes) - set(labels)):
        known = ", ".join(labels[:10]) + (", …" if len(labels) > 10 else "")
        raise DetectorError(f"detector.classes: the model does not know {unknown[0]!r}; it knows {known}")
    return np.array([settings.classes.get(label, LEFT_OUT) for label in labels], np.float32)


def reported_labels(info: ModelInfo, settings: DetectorSettings) -> frozenset[str]:
    """Those of the model's labels that the settings let through. Raises DetectorError as `thresholds` does."""
    return frozenset(
        label for label, least in zip(info.labels, thresholds(info.labels, settings), strict=True) if least < LEFT_OUT
    )


@asynccontextmanager
async def open_detector(settings: DetectorSettings) -> AsyncIterator[Detector]:
    """Load the model, prove it on an empty picture, and run its threads until the end. Raises DetectorError."""
    load = network_loader(settings)
    started: asyncio.Future[Detector] = asyncio.get_running_loop().create_future()
    threads = [threading.Thread(target=_first_thread, args=(load, settings, started), name="detector-0", daemon=True)]
    threads[0].start()
    detector = await started
    for index in range(1, detector._network.streams):
        threads.append(threading.Thread(target=detector.run, name=f"detector-{index}", daemon=True))
        threads[-1].start()
    try:
        yield detector
    finally:
        detector.close()
        await asyncio.gather(*(asyncio.to_thread(thread.join, 2.0) for thread in threads))


def _first_thread(load: Callable[[], Network], settings: DetectorSettings, started: asyncio.Future[Detector]) -> None:
    """Loads in the thread that will use it, as ultralytics asks, and off the event loop, as everybody should."""
    loop = started.get_loop()
    try:
        network = load()
        detector = Detector(network, settings)
        _prove(network, settings)
    except Exception as error:  # noqa: BLE001 - handed to open_detector, which raises it
        loop.call_soon_threadsafe(started.set_exception, error)
        return
    loop.call_soon_threadsafe(started.set_result, detector)
    detector.run()


def _prove(network: Network, settings: DetectorSettings) -> None:
    height, width = network.info.fixed_input or (2 * STRIDE, 2 * STRIDE)
    output = network.infer([np.zeros((height, width, 3), np.uint8)])[0]
    if not np.isfinite(output).all():
        raise DetectorError(f"{settings.model}: the network's output on an empty picture is not finite")
    network.forget()


def network_loader(settings: DetectorSettings) -> Callable[[], Network]:
    """The function that loads what the settings name. Raises DetectorError where that can't be."""
    path = settings.model
    if path is None:
        raise DetectorError("detector.model: missing; expected the path of an exported YOLO .onnx")
    if not path.is_file():
        raise DetectorError(f"detector.model: no such file: {path}")
    streams = settings.streams or default_streams()
    match _backend(settings, path):
        case "openvino":
            from pipeline.openvino_network import OpenVINONetwork

            exact = settings.precision == "f32"
            return lambda: OpenVINONetwork(path, settings.device.upper(), streams, settings.labels, exact)
        case "onnxruntime":
            from pipeline.onnxruntime_network import OnnxRuntimeNetwork

            return lambda: OnnxRuntimeNetwork(path, settings.device, streams, settings.labels)
        case _:
            from pipeline.ultralytics_network import UltralyticsNetwork

            least = min(settings.classes.values()) if settings.classes else settings.confidence
            return lambda: UltralyticsNetwork(path, settings.device, settings.iou, least)


def _backend(settings: DetectorSettings, path: Path) -> str:
    if path.suffix != ".onnx":
        if settings.backend in ("openvino", "onnxruntime"):
            raise DetectorError(f"detector.backend: {settings.backend} reads .onnx files, not {path.name}")
        return "ultralytics"
    if settings.backend != "auto":
        return settings.backend
    return "onnxruntime" if settings.device.lower() in ("cuda", "tensorrt") else "openvino"


def default_streams() -> int:
    """All of two cores; of more, all but one, which is left to decoding and the event loop."""
    cores = len(os.sched_getaffinity(0))
    return cores if cores <= 2 else min(cores - 1, 8)
