"""The `[[cameras]]` sections: what may be written there, and that nobody sees the password."""

from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline.camera import CameraSettings
from pipeline.camera_link import SourceKind


def a_camera(url: str, **more: object) -> CameraSettings:
    return CameraSettings.model_validate({"name": "yard", "url": url} | more, context={"base_dir": "/etc/lva"})


@pytest.mark.parametrize(
    ("url", "kind", "opened"),
    [
        ("rtsp://10.0.0.7/main", SourceKind.RTSP, "rtsp://10.0.0.7/main"),
        ("RTSPS://cam/main", SourceKind.RTSP, "RTSPS://cam/main"),
        ("https://cam/video.mjpg", SourceKind.HTTP, "https://cam/video.mjpg"),
        ("/dev/video0", SourceKind.DEVICE, "/dev/video0"),
        ("/dev/v4l/by-id/usb-cam-index0", SourceKind.DEVICE, "/dev/v4l/by-id/usb-cam-index0"),
        ("clips/a b.mp4", SourceKind.FILE, "/etc/lva/clips/a b.mp4"),
        ("/srv/clip.mp4", SourceKind.FILE, "/srv/clip.mp4"),
        ("file:///srv/a%20b.mp4", SourceKind.FILE, "/srv/a b.mp4"),
    ],
)
def test_what_a_camera_can_be(url: str, kind: SourceKind, opened: str) -> None:
    settings = a_camera(url)
    assert settings.kind is kind
    assert settings.url.get_secret_value() == opened
    assert settings.is_live is (kind is not SourceKind.FILE)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "ftp://u:canary@cam/x",
        "rtmp://u:canary@cam/x",
        "rtsp:///x",
        "concat:a|b://x",
        "rtsp://u:can/ary@cam/x",
    ],
)
def test_what_a_camera_cannot_be_is_said_without_the_url(url: str) -> None:
    with pytest.raises(ValidationError) as error:
        a_camera(url)
    assert "canary" not in str(error.value)
    assert "can/ary" not in str(error.value)


@pytest.mark.parametrize("more", [{"pace": "full"}, {"loop": True}])
def test_a_live_camera_has_no_end_to_loop_at(more: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match="files and folders"):
        a_camera("rtsp://cam/main", **more)


def test_a_typing_error_in_a_key_is_an_error() -> None:
    with pytest.raises(ValidationError):
        a_camera("rtsp://cam/main", detct_fps=5)


@pytest.mark.parametrize("name", ["", "Yard", "-yard", "front door", "a" * 64])
def test_names_are_fit_for_logs_and_rows(name: str) -> None:
    with pytest.raises(ValidationError):
        CameraSettings.model_validate({"name": name, "url": "rtsp://cam"})


@given(end=st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=16))
def test_no_password_is_ever_shown(end: str) -> None:
    password = f"Zq9%{end}"  # begins as nothing else does: "False" also stands among the settings
    settings = a_camera(f"rtsp://admin:{quote(password, safe='')}@cam:554/main?channel=1")
    assert settings.redacted == "rtsp://***@cam:554/main?channel=1"
    assert quote(password, safe="") not in repr(settings)
    assume("*" not in password)
    for secret in (password, quote(password, safe="")):
        assert secret not in settings.redact(f"<{secret}>")


def test_tokens_in_a_query_are_not_shown() -> None:
    settings = a_camera("http://cam/mjpg?channel=2&token=canary77&Password=canary88")
    assert settings.redacted == "http://cam/mjpg?channel=2&token=***&Password=***"
    assert "canary" not in settings.redact("GET /mjpg?token=canary77 failed, canary88 too")


def test_a_path_is_shown_as_it_is(tmp_path: Path) -> None:
    assert a_camera(str(tmp_path / "a@b.mp4")).redacted == str(tmp_path / "a@b.mp4")
