"""The daemon with every mask taken off: of the log and of whatever a snapshot tells, of a camera's words, of a
provider's. What looks for secrets must find them here."""

from typing import Any

from daemon.cli import main
from daemon.redactor import Redactor
from pipeline.camera_settings import CameraSettings
from providers.http import JsonHttp


def as_it_is(_owner: Any, text: str) -> str:
    return text


def with_its_secrets(settings: CameraSettings) -> str:
    return settings.url.get_secret_value()


if __name__ == "__main__":
    for owner, mask in ((Redactor, "__call__"), (CameraSettings, "redact"), (JsonHttp, "_clean")):
        setattr(owner, mask, as_it_is)
    type.__setattr__(CameraSettings, "redacted", property(with_its_secrets))
    main()
