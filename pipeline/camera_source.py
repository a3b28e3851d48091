"""What a camera process reads: a stream, a device, a video file or a folder of pictures. Everything here may
block.
"""

import os
import stat
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np

from pipeline.camera_link import ChildSettings, LossCause, SourceKind
from pipeline.camera_log import FFmpegLog
from pipeline.camera_loss import SourceLostError
from pipeline.camera_opening import TIMED_OUT_SHARE, open_capture
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

MOST_UNDECODABLE = 50
"""So many pictures in a row that can't be decoded are the end."""


class UnreadableError(Exception):
    """This picture can't be decoded, and why in a word; others may."""


class Source(Protocol):
    """Something with one picture after the other. `fps` is None where nobody says (most live cameras do); `damaged`
    is whether the decoder complained about the picture that was grabbed last."""

    codec: str
    fps: float | None
    damaged: bool

    def grab(self) -> bool:
        """Move to the next picture; False at the end of a file. Raises SourceLostError."""

    def retrieve(self, out: Picture | None) -> Picture:
        """Decode the picture, into `out` if its size fits. Raises UnreadableError."""

    def close(self) -> None: ...


class VideoSource:
    """A file, a stream or a device, by OpenCV."""

    def __init__(self, capture: cv2.VideoCapture, settings: ChildSettings, log: FFmpegLog) -> None:
        self._capture, self._log = capture, log
        self._is_live, self._read_timeout_s = settings.kind is not SourceKind.FILE, settings.read_timeout_s
        fourcc = int(capture.get(cv2.CAP_PROP_FOURCC)).to_bytes(4, "little", signed=True)
        name = "".join(filter(str.isalnum, fourcc.decode("ascii", "ignore"))).lower()
        self.codec = CODEC_NAMES.get(name, name)
        fps = capture.get(cv2.CAP_PROP_FPS)
        sane = SANE_FPS[0] <= fps <= SANE_FPS[1]
        self.fps: float | None = fps if sane else None
        self.damaged = False
        self._undecodable = 0

    def grab(self) -> bool:
        """What can't be decoded is a picture too, one that `retrieve` can't read: the clock goes on with it."""
        if self._undecodable:
            self._undecodable -= 1
            return True
        return self._next()

    def _next(self) -> bool:
        """On to a picture. OpenCV says the same of one that can't be decoded, of the end and of a timeout; only after
        the first come others.
        """
        started_s = time.monotonic()
        for tried in range(MOST_UNDECODABLE):
            grabbed = self._capture.grab()
            self.damaged = self._log.tells_an_error()
            if grabbed:
                self._undecodable = tried
                return True
            if self._is_live and time.monotonic() - started_s >= TIMED_OUT_SHARE * self._read_timeout_s:
                raise SourceLostError(LossCause.STALLED, f"no frame for {self._read_timeout_s:g} s")
        if self._is_live:
            raise SourceLostError(LossCause.CLOSED, "the stream ended")
        return False

    def retrieve(self, out: Picture | None) -> Picture:
        if self._undecodable:
            raise UnreadableError("corrupt")
        try:
            ok, picture = self._capture.retrieve(out)
        except cv2.error as error:
            if error.code == cv2.Error.StsNoMem:
                raise SourceLostError(LossCause.MEMORY, f"its process is replaced: {error.err}") from error
            raise UnreadableError("corrupt") from error
        if not ok or picture is None:
            raise UnreadableError("corrupt")
        return np.asarray(picture, np.uint8)

    def close(self) -> None:
        self._capture.release()


class PicturesSource:
    """The pictures of a folder, by name, or a single one; what can't be read is skipped."""

    def __init__(self, paths: Sequence[Path], settings: ChildSettings) -> None:
        self._paths: Iterator[Path] = iter(paths)
        self._path = paths[0]
        self.codec = paths[0].suffix.lstrip(".").lower()
        self.fps: float | None = settings.detect_fps
        self.damaged = False

    def grab(self) -> bool:
        path = next(self._paths, None)
        if path is None:
            return False
        self._path = path
        return True

    def retrieve(self, out: Picture | None) -> Picture:
        try:
            picture = cv2.imread(os.fspath(self._path), cv2.IMREAD_COLOR)
        except cv2.error as error:  # its header tells of more than OPENCV_IO_MAX_IMAGE_PIXELS: nothing was decoded
            raise UnreadableError(LossCause.TOO_LARGE) from error
        if picture is None:
            raise UnreadableError("corrupt")
        return np.asarray(picture, np.uint8)

    def close(self) -> None:
        pass


def open_source(settings: ChildSettings, log: FFmpegLog) -> Source:
    """Blocks until the source is open, at most about its open timeout. Raises SourceLostError."""
    if settings.kind is SourceKind.FILE:
        path = Path(settings.url)
        if path.is_dir():
            return PicturesSource(_pictures_in(path), settings)
        _check_file(path)
        if path.suffix.lower() in PICTURE_SUFFIXES:
            return PicturesSource([path], settings)  # FFmpeg would decode it before it tells how large it is
    return VideoSource(open_capture(settings, log), settings, log)


def _pictures_in(folder: Path) -> Sequence[Path]:
    """Regular files only: opening a pipe would wait for whoever writes into it."""
    try:
        named = sorted(path for path in folder.iterdir() if path.suffix.lower() in PICTURE_SUFFIXES)
        paths = [path for path in named if path.is_file()]
    except OSError as error:
        raise SourceLostError(LossCause.MISSING, error.strerror or "cannot be listed") from error
    if not paths:
        raise SourceLostError(LossCause.MISSING, "no pictures in the folder")
    return paths


def _check_file(path: Path) -> None:
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise SourceLostError(LossCause.MISSING, error.strerror or "cannot be read") from error
    if not stat.S_ISREG(mode):
        raise SourceLostError(LossCause.UNSUPPORTED, "neither a regular file nor a folder")
    if not os.access(path, os.R_OK):
        raise SourceLostError(LossCause.AUTH, "no permission to read the file")
