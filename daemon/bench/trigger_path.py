"""From video to events: our path against the bare loop and against ultralytics' tracking; a still scene; memory."""

from collections.abc import Iterator
from importlib.util import find_spec

from daemon.bench.figures import Figure, at_least, at_most, in_turn, median_ratio
from daemon.bench.material import Material, in_a_process, write_clip

ROUNDS = 3
STILL_FRAMES = 400
HD = (1920, 1080)


def measure(material: Material) -> Iterator[Figure]:
    for clips in (1, 2, 4):
        yield _against_the_bare_loop(material, clips)
    yield from _against_ultralytics(material)
    yield _still_scene(material)
    yield _camera_memory(material)


def _arguments(material: Material) -> dict[str, object]:
    return {"clip": material.clip, "model": material.model, "size_px": material.size_px}


def _against_the_bare_loop(material: Material, clips: int) -> Figure:
    arguments = _arguments(material) | {"clips": clips}

    def ours() -> float:
        return float(in_a_process("daemon.bench.our_loop", **arguments)["frames_per_s"])

    def bare() -> float:
        return float(in_a_process("daemon.bench.bare_loop", **arguments)["frames_per_s"])

    mine, theirs = in_turn(ROUNDS, ours, bare)
    detail = (
        f"{sorted(mine)[ROUNDS // 2]:.0f} against {sorted(theirs)[ROUNDS // 2]:.0f} frames/s at {material.size_px} px"
    )
    return at_least(
        f"trigger path, {clips} clips, against a bare decode + infer loop", median_ratio(mine, theirs), 0.85, detail
    )


def _against_ultralytics(material: Material) -> Iterator[Figure]:
    if find_spec("ultralytics") is None:
        yield Figure(
            "trigger path against ultralytics track()",
            0.0,
            "not measured: extra `models` not installed",
            None,
            False,
            "",
        )
        return

    def ours() -> float:
        return float(in_a_process("daemon.bench.our_loop", **_arguments(material), clips=1)["frames_per_s"])

    def theirs() -> float:
        return float(in_a_process("daemon.bench.ultralytics_loop", **_arguments(material))["frames_per_s"])

    mine, other = in_turn(ROUNDS, ours, theirs)
    detail = f"{sorted(mine)[ROUNDS // 2]:.0f} against {sorted(other)[ROUNDS // 2]:.0f} frames/s, same .onnx"
    yield at_least("trigger path against ultralytics track()", median_ratio(mine, other), 2.0, detail)


def _still_scene(material: Material) -> Figure:
    """CPU of all processes per frame of the source; what starting costs is taken out by a clip of one frame."""
    moving = write_clip(material.scratch / "moving.mp4", material.clip, STILL_FRAMES)
    still = write_clip(material.scratch / "still.mp4", material.clip, STILL_FRAMES, still=True)
    nothing = write_clip(material.scratch / "nothing.mp4", material.clip, 4, still=True)

    def cpu_s(clip: object) -> float:
        result = in_a_process(
            "daemon.bench.our_loop", clip=clip, model=material.model, size_px=material.size_px, clips=1
        )
        return float(result["cpu_s"])

    of_still, of_moving, of_nothing = in_turn(
        ROUNDS, lambda: cpu_s(still), lambda: cpu_s(moving), lambda: cpu_s(nothing)
    )
    start_s = min(of_nothing)
    per_frame = [
        [max(0.0, total - start_s) / STILL_FRAMES * 1000 for total in totals] for totals in (of_still, of_moving)
    ]
    detail = f"{min(per_frame[0]):.2f} against {min(per_frame[1]):.2f} ms of CPU per frame"
    return at_most("still scene, CPU per frame, against one with motion", median_ratio(*per_frame), 0.2, detail)


def _camera_memory(material: Material) -> Figure:
    clip = write_clip(material.scratch / "hd.mp4", material.clip, 100, size=HD)
    result = in_a_process("daemon.bench.our_loop", **_arguments(material) | {"clip": clip}, clips=1, pace="realtime")
    return at_most(
        "memory of a 1080p camera's process", result["child_rss_mb"], 90, "resident, MPEG-4 file in real time", "MB"
    )
