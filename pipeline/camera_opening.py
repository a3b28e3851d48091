"""Opening a stream, a device or a video file by OpenCV, and why it could not be opened, or should not be."""

import math
import os
import re
import time
from collections.abc import Sequence

import cv2

from pipeline.camera_link import MAX_PIXELS, ChildSettings, LossCause, SourceKind
from pipeline.camera_log import FFmpegLog, text
from pipeline.camera_loss import SourceLostError

CAPTURE_OPTIONS = {
    SourceKind.RTSP: (
        "rtsp_transport;tcp|allowed_media_types;video|fpsprobesize;2|protocol_whitelist;rtsp,rtsps,rtp,tcp,tls,crypto"
    ),
    SourceKind.HTTP: "protocol_whitelist;http,https,tcp,tls,crypto|max_redirects;0",
    SourceKind.FILE: "protocol_whitelist;file",
    SourceKind.DEVICE: "",
}
"""FFmpeg's, by kind. Guessing the rate from few frames halves the time to the first. The whitelist keeps a
stream or a playlist from naming a file, and a file from calling out. Where a camera sends us elsewhere, HTTP does
not go; RTSP does, and only says so.
"""

REDIRECTED = re.compile(r"Redirecting to (\S+)")

CAUSE_IN_LOG = {
    LossCause.AUTH: re.compile(r"(?:failed: |HTTP error |returned )40[13]\b"),
    LossCause.REFUSED: re.compile(r"Connection refused"),
    LossCause.UNREACHABLE: re.compile(r"resolve hostname|No route to host|Network is unreachable"),
    LossCause.MISSING: re.compile(r"(?:failed: |HTTP error |returned )404\b"),
    LossCause.TIMEOUT: re.compile(r"timed out"),
}
"""FFmpeg tells why it failed only to its log."""

LOG_PREFIX = re.compile(r"^(\[[^]]*\] )*(Connection to \S+ failed: )?")
NOTHING_SAID = {SourceKind.HTTP: "FFmpeg can't read it; to where an answer redirects, it does not go"}
TIMED_OUT_SHARE = 0.9
"""A call that took this share of its timeout ended because of it: OpenCV doesn't say."""


def open_capture(settings: ChildSettings, log: FFmpegLog) -> cv2.VideoCapture:
    """Blocks at most about the open timeout. Raises SourceLostError."""
    os.environ["OPENCV_FFMPEG_CAPTURE_OPTIONS"] = CAPTURE_OPTIONS[settings.kind]
    started_s = time.monotonic()
    log.lines()  # of the connection before
    capture = _capture(settings)
    said = [*filter(None, map(text, log.lines()))]
    if loss := _refusal(capture, said):
        capture.release()
        raise loss
    if not capture.isOpened():
        raise _why_not_open(said, time.monotonic() - started_s, settings)
    return capture


def _refusal(capture: cv2.VideoCapture, said: Sequence[str]) -> SourceLostError | None:
    """Why we don't want what was opened. The picture's size is known now; of a JPEG, nothing is decoded yet."""
    if elsewhere := next(filter(None, map(REDIRECTED.search, said)), None):
        return SourceLostError(
            LossCause.REDIRECTED, f"it sends us to {elsewhere[1]}; only a url that is configured is read"
        )
    width, height = (int(capture.get(side)) for side in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT))
    if width * height > MAX_PIXELS:
        return SourceLostError(
            LossCause.TOO_LARGE, f"{width} × {height} pixels are more than {MAX_PIXELS // 10**6} million"
        )
    return None


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


def _why_not_open(said: Sequence[str], took_s: float, settings: ChildSettings) -> SourceLostError:
    for cause, words in CAUSE_IN_LOG.items():
        if line := next(filter(words.search, said), ""):
            return SourceLostError(cause, LOG_PREFIX.sub("", line))
    if settings.kind is SourceKind.DEVICE and not os.path.exists(settings.url):
        return SourceLostError(LossCause.MISSING, "no such device")
    if settings.kind is not SourceKind.FILE and took_s >= TIMED_OUT_SHARE * settings.open_timeout_s:
        return SourceLostError(LossCause.TIMEOUT, f"no answer in {settings.open_timeout_s:g} s")
    nothing_said = NOTHING_SAID.get(settings.kind, "FFmpeg can't read it")
    return SourceLostError(LossCause.UNSUPPORTED, LOG_PREFIX.sub("", next(iter(said), nothing_said)))
