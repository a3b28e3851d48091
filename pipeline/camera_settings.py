"""The `[[cameras]]` sections of the configuration, and how a camera's URL is shown to anyone."""

import re
from pathlib import Path
from typing import Literal, Self
from urllib.parse import quote, unquote, urlsplit

from pydantic import ConfigDict, Field, SecretStr, ValidationInfo, field_serializer, field_validator, model_validator
from pydantic_core import PydanticCustomError

from pipeline.camera_link import SourceKind
from providers.settings import Section

BASE_DIR = "base_dir"
"""Key of the validation context: the folder that relative paths are relative to, that of the configuration
file.
"""

KIND_OF_SCHEME = {
    "rtsp": SourceKind.RTSP,
    "rtsps": SourceKind.RTSP,
    "http": SourceKind.HTTP,
    "https": SourceKind.HTTP,
    "file": SourceKind.FILE,
}
DEVICES = "/dev/"
SECRET_QUERY = re.compile(r"(?i)([?&][^=&]*(?:pass|pwd|token|key|auth|secret|sig|user)[^=&]*=)([^&#]*)")
MASK = "***"
SECRET_CHARS = 4
"""A shorter password is masked only together with its user: alone it is in every other word."""

LEAST_STALL_S = 2.0
"""A child reports twice a second; with less patience than this a busy box would look like a stuck camera."""

STALL_FACTOR = 2
"""A child gets this many of its own timeouts before it counts as stuck."""


def _check_host(url: str) -> None:
    parts = urlsplit(url)
    try:
        port_is_a_number = parts.port is None or parts.port > 0
    except ValueError:
        port_is_a_number = False
    if not parts.hostname:
        raise PydanticCustomError("camera_url", "the URL names no host")
    if not port_is_a_number or "@" in parts.path:
        raise PydanticCustomError(
            "camera_url",
            "the URL can't be read; a : / ? # or @ in the password is written %3A %2F %3F %23 or %40",
        )


class CameraSettings(Section):
    """One camera, or a file or folder in the place of one."""

    model_config = ConfigDict(hide_input_in_errors=True)

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$", description="In every row and log line: a-z 0-9 - _")
    url: SecretStr = Field(description="rtsp(s)://, http(s)://, /dev/video…, a video file or a folder of images")
    enabled: bool = Field(True, description="false: left out")
    pace: Literal["realtime", "full"] = Field(
        "realtime", description="full: a file as fast as it can be analyzed, no frame left out"
    )
    loop: bool = Field(False, description="Files and folders: begin again at the end")
    detect_fps: float = Field(10.0, gt=0, le=60, description="Frames a second that the detector gets at most")
    motion: bool = Field(True, description="Leave out frames in which nothing moves")
    still_refresh_s: float = Field(5.0, gt=0, le=3600, description="One frame this often even if nothing moves")
    frozen_after_s: float = Field(
        30.0, ge=2, le=3600, description="Not one pixel changed for this long: the camera hangs"
    )
    open_timeout_s: float = Field(5.0, gt=0, le=120, description="To the first picture")
    read_timeout_s: float = Field(5.0, gt=0, le=120, description="From one picture to the next")
    stall_timeout_s: float = Field(10.0, gt=0, le=600, description="A camera process silent for this long is killed")
    retry_s: float = Field(1.0, gt=0, le=600, description="Ceiling of the first wait before the next try; doubles")
    retry_max_s: float = Field(60.0, gt=0, le=3600, description="Longest wait before the next try")
    jpeg_quality: int = Field(85, ge=30, le=100, description="Of the picture that is asked about")
    jpeg_max_side_px: int = Field(1280, ge=160, le=8192, description="It is scaled down to this")
    decoder_threads: int = Field(1, ge=1, le=16, description="More for 4K; each costs the memory of a frame")
    memory_limit_mb: int = Field(1024, ge=256, description="Of the camera's process; beyond it, it is replaced")

    @field_validator("url")
    @classmethod
    def _known_and_absolute(cls, url: SecretStr, info: ValidationInfo) -> SecretStr:
        text = url.get_secret_value()
        scheme = text.partition("://")[0].lower() if "://" in text else "file"
        if not text or scheme not in KIND_OF_SCHEME:
            raise PydanticCustomError(
                "camera_url",
                "a camera is rtsp://, rtsps://, http://, https://, file://, /dev/video…, or a path",
            )
        if scheme != "file":
            _check_host(text)
            return url
        path = Path(unquote(urlsplit(text).path) if "://" in text else text).expanduser()
        base_dir = (info.context or {}).get(BASE_DIR)
        return SecretStr(str(Path(base_dir) / path if base_dir else path.absolute()))

    @field_serializer("url", when_used="json")
    def _without_secrets(self, _url: SecretStr) -> str:
        return self.redacted

    @model_validator(mode="after")
    def _only_files_have_an_end(self) -> Self:
        if self.is_live and (self.pace == "full" or self.loop):
            raise PydanticCustomError("camera_pace", 'pace = "full" and loop are for files and folders only')
        return self

    @property
    def kind(self) -> SourceKind:
        text = self.url.get_secret_value()
        if text.startswith(DEVICES):
            return SourceKind.DEVICE
        return KIND_OF_SCHEME[text.partition("://")[0].lower()] if "://" in text else SourceKind.FILE

    @property
    def is_live(self) -> bool:
        """Neither a file nor a folder: it has no end, and what isn't taken in time is gone."""
        return self.kind is not SourceKind.FILE

    @property
    def stall_s(self) -> float:
        """A child that has said nothing for this long is stuck."""
        return max(LEAST_STALL_S, self.stall_timeout_s, STALL_FACTOR * max(self.open_timeout_s, self.read_timeout_s))

    @property
    def redacted(self) -> str:
        """The URL as it may be shown: no user, no password, no token."""
        text = self.url.get_secret_value()
        if "://" not in text:
            return text
        scheme, _, rest = text.partition("://")
        userinfo, at, shown = rest.rpartition("@")
        return SECRET_QUERY.sub(rf"\1{MASK}", f"{scheme}://{MASK if userinfo else ''}{at}{shown}")

    def redact(self, text: str) -> str:
        """A text from outside, without anything secret of this camera's URL in it."""
        for secret in self._secrets():
            text = text.replace(secret, MASK)
        return text

    def _secrets(self) -> list[str]:
        """Everything that must not be seen, raw and percent-encoded, the longest first."""
        url = self.url.get_secret_value()
        if "://" not in url:
            return []
        userinfo = url.partition("://")[2].partition("/")[0].rpartition("@")[0]
        password = userinfo.partition(":")[2]
        tokens = [value for _, value in SECRET_QUERY.findall(url)]
        found = {url, userinfo, *(secret for secret in (password, *tokens) if len(secret) >= SECRET_CHARS)}
        found |= {unquote(secret) for secret in found} | {quote(unquote(secret), safe="") for secret in found}
        return sorted(found - {""}, key=len, reverse=True)
