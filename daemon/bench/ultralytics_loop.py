"""ultralytics' own tracking loop on the same file and model."""

import json
import sys
import time

from pipeline.ultralytics_network import be_quiet


def frames_per_s(clip: str, model: str, size_px: int) -> dict[str, float]:
    be_quiet()
    from ultralytics import YOLO

    network = YOLO(model, task="detect")
    options = {"imgsz": size_px, "stream": True, "verbose": False, "persist": True, "tracker": "bytetrack.yaml"}
    frames, started = 0, 0.0
    for frames, _ in enumerate(network.track(clip, **options)):  # noqa: B007
        started = started or time.perf_counter()  # the first result comes after loading and warming up
    return {"frames_per_s": frames / (time.perf_counter() - started)}


if __name__ == "__main__":
    print(json.dumps(frames_per_s(**json.loads(sys.argv[1]))))
