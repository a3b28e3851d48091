import json
import re
from pathlib import Path

import pytest
from pydantic import SecretStr

from daemon.config import ConfigError, known_secrets, load_config
from pipeline.events import Priority
from tests.daemon.lva import lva

ROOT = Path(__file__).parents[2]


def config(folder: Path, text: str) -> Path:
    file = folder / "config.toml"
    file.write_text(text)
    return file


def wrong(folder: Path, text: str) -> list[str]:
    with pytest.raises(ConfigError) as error:
        load_config(config(folder, text))
    return [line.replace(f"{folder}/config.toml", "FILE") for line in error.value.lines]


def test_the_file_at_the_top_works_as_it_is() -> None:
    settings = load_config(ROOT / "config.toml")
    assert [camera.name for camera in settings.cameras] == ["yard"]
    assert settings.detector.model is not None
    assert settings.detector.model.is_file()
    assert settings.state_dir == ROOT / "state"


def test_every_commented_key_of_the_file_at_the_top_is_a_real_one(tmp_path: Path) -> None:
    text = (ROOT / "config.toml").read_text()
    shown = re.sub(r"^# (?=\[|[a-z_]+ = )", "", text, flags=re.MULTILINE)
    shown = shown.replace("${credential:door_password}", "secret").replace("${credential:pg_password}", "secret")
    settings = load_config(config(tmp_path, shown.replace('ca_file = "prod-ca-2021.crt"', "")))
    assert [camera.name for camera in settings.cameras] == ["yard", "door"]
    assert [provider.kind for provider in settings.providers] == ["moondream", "ollama", "detections"]
    assert settings.triggers.object_appeared.priority is Priority.MEDIUM


def test_an_empty_file_is_a_configuration_with_nothing_to_watch(tmp_path: Path) -> None:
    assert load_config(config(tmp_path, "")).cameras == ()


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("sight = 'x'", "FILE: sight: unknown key"),
        ("[[cameras]]\nname = 'a'\nurl = 'x.mp4'\nfps = 3", "FILE: cameras[0].fps: unknown key"),
        ("[[cameras]]\nname = 'a'", "FILE: cameras[0].url: missing; it has no default"),
        ("[detector]\nsize_px = 'big'", "FILE: detector.size_px: Input should be a valid integer"),
        ("[detector]\nsize_px = 417", "FILE: detector.size_px: Input should be a multiple of 32 (given: 417)"),
        ("[detector]\nconfidence = 1.5", "FILE: detector.confidence: Input should be less than 1 (given: 1.5)"),
        ("[[providers]]\nkind = 'oracle'", "FILE: providers[0].kind: 'oracle' is not one of"),
        ("[[providers]]\nname = 'x'", "FILE: providers[0].kind: missing"),
        ("[[providers]]\nkind = 'ollama'\nmodle = 'x'", "FILE: providers[0].modle: unknown key"),
        ("[triggers.object_appeared]\npriority = 'huge'", "expected critical, high, medium or low"),
        ("site = 'a'\nsite = 'b'", "FILE:2:"),
        ("site = ", "FILE:1:"),
        ("[[cameras]]\nname='a'\nurl='ftp://x/y'", "FILE: cameras[0].url: a camera is rtsp://"),
        ("[[cameras]]\nname='a'\nurl='a.mp4'\n[[cameras]]\nname='a'\nurl='b.mp4'", "'a' is used twice"),
        (
            "[[cameras]]\nname='a'\nurl='${env:LVA_NO_SUCH}'",
            "FILE: cameras[0].url: ${env:LVA_NO_SUCH}: the environment variable",
        ),
        ("[cameras]\nname='a'", "FILE: cameras: expected tables in double brackets, [[cameras]]"),
        ("detector = 'x'", "FILE: detector: expected a table, [detector]"),
        ("site = 'a b'", "FILE: site: expected only letters, digits, - and _"),
        ("[[questions]]\nname='q'\nkind='text'\ncameras=['dor']", "there is no camera 'dor'"),
        ("[[questions]]\nname='q'\nkind='text'\nevents=['camera_down']", "camera_down has no picture"),
        ("[database]\nurl='${credential:pg}'", "FILE: database.url: ${credential:pg}: No such file or directory"),
    ],
)
def test_what_is_wrong_is_said_in_one_line_with_the_place(tmp_path: Path, text: str, line: str) -> None:
    [said] = wrong(tmp_path, text)
    assert line in said


def test_every_mistake_is_told_not_only_the_first(tmp_path: Path) -> None:
    assert len(wrong(tmp_path, "sight = 1\n[detector]\nsize_px = 1\nconfidence = 7")) == 3


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.toml: no such file; give one with --config FILE"):
        load_config(tmp_path / "nowhere.toml")


@pytest.mark.parametrize("content", [b"\xff\xfe", b"site = '\xc3\x28'"])
def test_a_file_that_is_no_text_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "config.toml").write_bytes(content)
    with pytest.raises(ConfigError, match="can't be read"):
        load_config(tmp_path / "config.toml")


SECRET = "p@ss/w:rd-canary"


def test_secrets_come_from_systemd_from_beside_the_file_and_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = config(tmp_path, "[database]\nurl = 'postgresql://u:${credential:pg}@h/d'\n")
    (tmp_path / "credentials").mkdir()
    (tmp_path / "credentials" / "pg").write_text("beside\n")
    assert load_config(file).database.url == SecretStr("postgresql://u:beside@h/d")
    (handed := tmp_path / "handed").mkdir()
    (handed / "pg").write_text("systemd\n")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(handed))
    assert load_config(file).database.url == SecretStr("postgresql://u:systemd@h/d")
    monkeypatch.setenv("LVA_TEST", "environment")
    file = config(tmp_path, "[database]\nurl = 'postgresql://u:${env:LVA_TEST}@h/d'\n")
    assert load_config(file).database.url == SecretStr("postgresql://u:environment@h/d")
    assert known_secrets(file) == ["environment"]


def test_a_secret_is_never_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LVA_CANARY", "canary-4711")
    file = config(
        tmp_path,
        "[[cameras]]\nname='a'\nurl='rtsp://me:${env:LVA_CANARY}@10.0.0.9/s'\n"
        "[[providers]]\nkind='moondream'\ndialect='cloud'\napi_key='${env:LVA_CANARY}'\n"
        f"[detector]\nmodel='{ROOT}/daemon/demo/world-yolo11n.onnx'\n"
        "[database]\nurl='postgresql://u:${env:LVA_CANARY}@h/d'\n",
    )
    for command in (["config", "show"], ["validate"]):
        done = lva(*command, "--config", str(file))
        assert done.returncode == 0, done.stderr
        assert "canary" not in done.stdout + done.stderr
    assert "canary" not in repr(load_config(file))


def test_a_wrong_value_beside_a_secret_does_not_show_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LVA_CANARY", "canary-4711")
    lines = wrong(
        tmp_path,
        "[[cameras]]\nname='A!'\nurl='gopher://me:${env:LVA_CANARY}@h/s'\nfps=1\n[database]\nurl=['${env:LVA_CANARY}']",
    )
    assert "canary" not in "".join(lines)


def test_commands_say_it_and_exit_with_78(tmp_path: Path) -> None:
    file = config(tmp_path, "sight = 1")
    for command in (["validate"], ["run"], ["events"], ["config", "show"], ["db", "status"]):
        done = lva(*command, "--config", str(file))
        assert (done.returncode, done.stdout) == (78, "")
        assert done.stderr.strip() == f"{file}: sight: unknown key"


def test_a_usage_mistake_exits_with_2() -> None:
    assert lva("run", "--until-doomsday").returncode == 2
    assert lva("no-such-command").returncode == 2


def test_the_schema_names_every_section() -> None:
    schema = json.loads(lva("config", "schema").stdout)
    assert {"site", "cameras", "detector", "triggers", "providers", "questions", "database"} <= set(
        schema["properties"]
    )
    assert schema["additionalProperties"] is False


@pytest.mark.parametrize(
    ("detector", "line"),
    [
        ("", "detector.model: missing"),
        ("model = 'nowhere.onnx'", "detector.model: no such file"),
        ("model = 'config.toml'\nbackend = 'onnxruntime'", "reads .onnx files"),
        (f"model = '{ROOT}/daemon/demo/world-yolo11n.onnx'\nclasses = {{ unicorn = 0.5 }}", "does not know 'unicorn'"),
        (
            f"model = '{ROOT}/daemon/demo/world-yolo11n.onnx'",
            "does not report 'preson'; it reports backpack",
        ),
    ],
)
def test_validate_looks_at_the_detector_too(tmp_path: Path, detector: str, line: str) -> None:
    file = config(
        tmp_path, f"[[cameras]]\nname='a'\nurl='a.mp4'\n[triggers]\nobjects=['preson']\n[detector]\n{detector}\n"
    )
    done = lva("validate", "--config", str(file))
    assert (done.returncode, done.stderr.startswith(f"{file}: ")) == (78, True)
    assert line in done.stderr
    assert done.stderr.count("\n") == 1


def test_validate_notes_a_managed_model_that_is_not_there(tmp_path: Path) -> None:
    there, missing = tmp_path / "here", tmp_path / "nowhere"
    there.mkdir()
    text = "[[providers]]\nname='{0}'\nkind='moondream'\ndialect='local'\nmanaged=true\nserver={{folder='{0}'}}\n"
    done = lva("validate", "--config", str(file := config(tmp_path, text.format("here") + text.format("nowhere"))))
    assert done.returncode == 0
    assert done.stderr == f"{file}: note: providers: nowhere: its model is not there now: {missing}\n"


def test_version_names_what_it_stands_on() -> None:
    assert lva("version").stdout.startswith("lva 0.")
