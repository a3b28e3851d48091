"""The plainest loop: decode, letterbox, infer, one frame after the other, in one process; no boxes, no tracking."""

import json
import sys
import time

import cv2
import numpy as np
import openvino as ov
from openvino import Layout, Type
from openvino.preprocess import ColorFormat, PrePostProcessor

from pipeline.letterbox import draw, fit, smallest_input


def frames_per_s(clip: str, model: str, size_px: int, clips: int) -> dict[str, float]:
    """All cores on one frame at a time, shapes fixed: the fastest that a plain loop can be."""
    captures = [cv2.VideoCapture(clip) for _ in range(clips)]
    width, height = (int(captures[0].get(side)) for side in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT))
    input_height, input_width = smallest_input(width, height, size_px)
    letterbox = fit(width, height, input_height, input_width)
    request = _network(model, (1, input_height, input_width, 3))
    picture = np.empty((1, input_height, input_width, 3), np.uint8)
    request.infer({0: picture}, share_inputs=True)
    frames, started = 0, time.perf_counter()
    while captures:
        for capture in list(captures):
            read, frame = capture.read()
            if not read:
                captures.remove(capture)
                continue
            draw(frame, letterbox, picture[0])  # type: ignore[arg-type]
            request.infer({0: picture}, share_inputs=True)
            frames += 1
    return {"frames_per_s": frames / (time.perf_counter() - started)}


def _network(model: str, shape: tuple[int, ...]):  # type: ignore[no-untyped-def]
    core = ov.Core()
    network = core.read_model(model)
    steps = PrePostProcessor(network)
    steps.input().tensor().set_element_type(Type.u8).set_layout(Layout("NHWC")).set_color_format(ColorFormat.BGR)
    steps.input().preprocess().convert_element_type(Type.f32).convert_color(ColorFormat.RGB).scale([255.0] * 3)
    steps.input().model().set_layout(Layout("NCHW"))
    network = steps.build()
    network.reshape({network.inputs[0]: shape})
    return core.compile_model(network, "CPU", {"PERFORMANCE_HINT": "LATENCY"}).create_infer_request()


if __name__ == "__main__":
    print(json.dumps(frames_per_s(**json.loads(sys.argv[1]))))
