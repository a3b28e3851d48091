"""What a camera process reads: a stream, a device, a video file or a folder of pictures. Everything here may
block.
"""

import math
import os
import re
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np

from pipeline.camera_link import ChildSettings, LossCause, SourceKind
from pipeline.letterbox import Picture

PICTURE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})
CODEC_NAMES = {
    "avc1": "h264",
    "hev1": "hevc",
    "hvc1": "hevc",
    "mjpg": "mjpeg",
    "fmp4": "mpeg4",
    "mp4v": "mpeg4",
}
SANE_FPS = (0.1, 240.0)
FALLBACK_FPS = 25.0
"""For files that don't say, or say something like 90000."""

CAPTURE_OPTIONS = {
    SourceKind.RTSP: (
        "rtsp_transport;tcp|allowed_media_types;video|fpsprobesize;2|protocol_whitelist;rtsp,rtsps,rtp,tcp,tls,crypto"
    ),
    SourceKind.HTTP: "protocol_whitelist;http,https,tcp,tls,crypto",
    SourceKind.FILE: "protocol_whitelist;file",
    SourceKind.DEVICE: "",
}
"""FFmpeg's, by kind. Guessing the rate from few frames halves the time to the first. The whitelist keeps a
stream or a playlist from naming a file, and a file from calling out.
"""

CAUSE_IN_LOG = {
    LossCause.AUTH: re.compile(r"(?:failed: |HTTP error |returned )40[13]\b"),
    LossCause.REFUSED: re.compile(r"Connection refused"),
    LossCause.UNREACHABLE: re.compile(r"resolve hostname|No route to host|Network is unreachable"),
    LossCause.MISSING: re.compile(r"(?:failed: |HTTP error |returned )404\b"),
    LossCause.TIMEOUT: re.compile(r"timed out"),
}
"""FFmpeg tells why it failed only to its log."""

LOG_PREFIX = re.compile(r"^(\[[^]]*\] )*(Connection to \S+ failed: )?")
TIMED_OUT_SHARE = 0.9
"""A call that took this share of its timeout ended because of it: OpenCV doesn't say."""


class SourceLostError(Exception):
    """There is no picture, because of `cause`."""

    def __init__(self, cause: LossCause, reason: str) -> None:
        super().__init__(reason)
        self.cause, self.reason = cause, reason


class Source(Protocol):
    """Something with one picture after the other. `fps` is None where nobody says (most live cameras do)."""

    codec: str
    fps: float | None

    def grab(self) -> bool:
        """Move to the next picture; False at the end of a file. Raises SourceLostError."""

    def retrieve(self, out: Picture | None) -> Picture | None:
        """Decode the picture, into `out` if its size fits; None if it can't be decoded."""

    def close(self) -> None: ...


class VideoSource:
    """A file, a stream or a device, by OpenCV."""

    def __init__(self, capture: cv2.VideoCapture, settings: ChildSettings) -> None:
        self._capture, self._settings = capture, settings
        fourcc = int(capture.get(cv2.CAP_PROP_FOURCC)).to_bytes(4, "little", signed=True)
        name = fourcc.decode("ascii", "replace").strip("\0 ").lower()
        self.codec = CODEC_NAMES.get(name, name)
        fps = capture.get(cv2.CAP_PROP_FPS)
        sane = SANE_FPS[0] <= fps <= SANE_FPS[1]
        self.fps: float | None = fps if sane else None

    def grab(self) -> bool:
        started_s = time.monotonic()
        if self._capture.grab():
            return True
        if self._settings.kind is SourceKind.FILE:
            return False
        if time.monotonic() - started_s >= TIMED_OUT_SHARE * self._settings.read_timeout_s:
            raise SourceLostError(LossCause.STALLED, f"no frame for {self._settings.read_timeout_s:g} s")
        raise SourceLostError(LossCause.CLOSED, "the stream ended")

    def retrieve(self, out: Picture | None) -> Picture | None:
        ok, picture = self._capture.retrieve(out)
        return np.asarray(picture, np.uint8) if ok and picture is not None else None

    def close(self) -> None:
        self._capture.release()


class FolderSource:
    """The pictures of a folder, by name; one that can't be read is skipped."""

    def __init__(self, paths: list[Path], settings: ChildSettings) -> None:
        self._paths: Iterator[Path] = iter(paths)
        self._path = paths[0]
        self.codec = paths[0].suffix.lstrip(".").lower()
        self.fps: float | None = settings.detect_fps

    def grab(self) -> bool:
        path = next(self._paths, None)
        if path is None:
            return False
        self._path = path
        return True

    def retrieve(self, out: Picture | None) -> Picture | None:
        try:
            picture = cv2.imread(os.fspath(self._path), cv2.IMREAD_COLOR)
        except cv2.error:  # more pixels than OPENCV_IO_MAX_IMAGE_PIXELS
            return None
        return None if picture is None else np.asarray(picture, np.uint8)

    def close(self) -> None:
        pass


def open_source(settings: ChildSettings) -> Source:
    """Blocks until the source is open, at most about its open timeout. Raises SourceLostError."""
    if settings.kind is SourceKind.FILE:
        path = Path(settings.url)
        if path.is_dir():
            return _open_folder(path, settings)
        _check_file(path)
    return _open_video(settings)


def _open_folder(folder: Path, settings: ChildSettings) -> FolderSource:
    try:
        paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in PICTURE_SUFFIXES)
    except OSError as error:
        raise SourceLostError(LossCause.MISSING, error.strerror or "cannot be listed") from error
    if not paths:
        raise SourceLostError(LossCause.MISSING, "no pictures in the folder")
    return FolderSource(paths, settings)


def _check_file(path: Path) -> None:
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise SourceLostError(LossCause.MISSING, error.strerror or "cannot be read") from error
    if not stat.S_ISREG(mode):
        raise SourceLostError(LossCause.UNSUPPORTED, "neither a regular file nor a folder")
    if not os.access(path, os.R_OK):
        raise SourceLostError(LossCause.AUTH, "no permission to read the file")


def _open_video(settings: ChildSettings) -> VideoSource:
    os.environ["OPENCV_FFMPEG_CAPTURE_OPTIONS"] = CAPTURE_OPTIONS[settings.kind]
    started_s = time.monotonic()
    with _log_into_text() as text:
        capture = _capture(settings)
        opened = capture.isOpened()
    if opened:
        return VideoSource(capture, settings)
    capture.release()
    raise _why_not_open("".join(text), time.monotonic() - started_s, settings)


def _capture(settings: ChildSettings) -> cv2.VideoCapture:
    if settings.kind is SourceKind.DEVICE:
        os.environ["OPENCV_VIDEOIO_V4L_SELECT_TIMEOUT"] = str(math.ceil(settings.read_timeout_s))
        return cv2.VideoCapture(settings.url, cv2.CAP_V4L2)
    # The timeouts count only with an explicit CAP_FFMPEG. Every decoder thread costs the memory of a frame.
    milliseconds = {
        cv2.CAP_PROP_OPEN_TIMEOUT_MSEC: settings.open_timeout_s * 1000,
        cv2.CAP_PROP_READ_TIMEOUT_MSEC: settings.read_timeout_s * 1000,
        cv2.CAP_PROP_N_THREADS: settings.decoder_threads,
    }
    flat = [int(value) for pair in milliseconds.items() for value in pair]
    return cv2.VideoCapture(settings.url, cv2.CAP_FFMPEG, flat)


def _why_not_open(log: str, took_s: float, settings: ChildSettings) -> SourceLostError:
    for cause, words in CAUSE_IN_LOG.items():
        if line := next(filter(words.search, log.splitlines()), ""):
            return SourceLostError(cause, LOG_PREFIX.sub("", line))
    if settings.kind is SourceKind.DEVICE and not os.path.exists(settings.url):
        return SourceLostError(LossCause.MISSING, "no such device")
    if settings.kind is not SourceKind.FILE and took_s >= TIMED_OUT_SHARE * settings.open_timeout_s:
        return SourceLostError(LossCause.TIMEOUT, f"no answer in {settings.open_timeout_s:g} s")
    said = (line for line in log.splitlines() if "[OPENCV:FFMPEG" in line)
    return SourceLostError(LossCause.UNSUPPORTED, LOG_PREFIX.sub("", next(said, "FFmpeg can't read it")))


@contextmanager
def _log_into_text() -> Iterator[list[str]]:
    """What C code writes to stdout and stderr meanwhile: text at the end, and then passed on to the real
    stderr.
    """
    text: list[str] = []
    real = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 1)
        os.dup2(held.fileno(), 2)
        try:
            yield text
        finally:
            os.dup2(real, 1)
            os.dup2(real, 2)
            os.close(real)
            held.seek(0)
            text.append(held.read().decode(errors="replace"))
            os.write(2, text[0].encode())
