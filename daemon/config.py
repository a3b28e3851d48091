"""The configuration file: read, fill in secrets, check, and say in one line each what is wrong.

The sections stand beside the code that they configure; here they are only put together.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tomli
from pydantic import Field, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_core import ErrorDetails

from daemon.config_error import ConfigError as ConfigError
from daemon.http_settings import HttpSettings
from daemon.logs import LogSettings
from daemon.redactor import Redactor, secrets_of
from pipeline.camera_settings import CameraSettings
from pipeline.detector import DetectorSettings
from pipeline.journal import JournalSettings
from pipeline.questions import QuestionSettings
from pipeline.queue import QueueSettings
from pipeline.store import DatabaseSettings
from pipeline.tracks import TrackerSettings
from pipeline.triggers import TriggerSettings
from pipeline.worker import WorkerSettings
from providers.settings import ProviderSettings, Section

_SECRET = re.compile(r"\$\{(credential|env):([A-Za-z0-9_.-]+)\}")
_SECRET_BYTES_MAX = 64 * 1024


class Config(Section):
    """The whole configuration file."""

    site: str = Field(
        "default", pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$", description="Name of this box in every row"
    )
    state_dir: Path = Field(
        Path("state"), validate_default=True, description="Journal and embedded database; relative to this file"
    )
    drain_s: float = Field(30.0, ge=0, le=600, description="After a stop: how long to finish what is under way")
    log: LogSettings = LogSettings()
    http: HttpSettings = HttpSettings()
    detector: DetectorSettings = DetectorSettings()
    tracker: TrackerSettings = TrackerSettings()
    triggers: TriggerSettings = TriggerSettings()
    cameras: tuple[CameraSettings, ...] = ()
    journal: JournalSettings = JournalSettings()
    queue: QueueSettings = QueueSettings()
    workers: WorkerSettings = WorkerSettings()
    providers: tuple[ProviderSettings, ...] = ()
    questions: tuple[QuestionSettings, ...] = ()
    database: DatabaseSettings = DatabaseSettings()

    @field_validator("state_dir")
    @classmethod
    def _beside_the_file(cls, path: Path, info: ValidationInfo) -> Path:
        base: Path | None = (info.context or {}).get("base_dir")
        return (base / path) if base else path

    @model_validator(mode="after")
    def _names_are_unique(self) -> "Config":
        for section, names in (
            ("cameras", [camera.name for camera in self.cameras]),
            ("providers", [provider.name or provider.kind for provider in self.providers]),
            ("questions", [question.name for question in self.questions]),
        ):
            if twice := sorted({name for name in names if names.count(name) > 1}):
                raise ValueError(f"{section}: the name {twice[0]!r} is used twice; names must differ")
        return self

    @model_validator(mode="after")
    def _questions_name_cameras_that_exist(self) -> "Config":
        known = {camera.name for camera in self.cameras}
        for question in self.questions:
            if unknown := sorted(set(question.cameras) - known):
                raise ValueError(f"questions: {question.name}: there is no camera {unknown[0]!r}")
        return self


def load_config(path: Path) -> Config:
    """Read and check the file. Relative paths in it are relative to it. Raises ConfigError."""
    tables = _parse(path)
    try:
        return Config.model_validate(_fill_in(tables, path.parent), context={"base_dir": path.resolve().parent})
    except ValidationError as error:
        masked = Redactor(known_secrets(path))  # what was given in a number's place may be a secret
        raise ConfigError([masked(f"{path}: {_line(detail)}") for detail in error.errors()]) from None
    except ConfigError as error:
        raise error.of(path) from None


def load_http_settings(path: Path) -> HttpSettings:
    """The section `[http]` alone: who asks the daemon how it is may read none of its secrets. Raises ConfigError."""
    try:
        return HttpSettings.model_validate(_parse(path).get("http", {}))
    except ValidationError as error:
        raise ConfigError([f"{path}: http.{_line(detail)}" for detail in error.errors()]) from None


def load_local_config(path: Path) -> Config:
    """What says where the journal is, and how large; without the secrets of all else. Raises ConfigError."""
    tables = _parse(path)
    local = {key: _fill_in(tables[key], path.parent, key) for key in ("site", "state_dir", "journal") if key in tables}
    try:
        return Config.model_validate(local, context={"base_dir": path.resolve().parent})
    except ValidationError as error:
        raise ConfigError([f"{path}: {_line(detail)}" for detail in error.errors()]) from None


def check_labels(config: Config, reported: frozenset[str]) -> None:
    """Raises ConfigError for an object that the detector can't report: no event would ever come of it."""
    for label in sorted(set(config.triggers.objects or ()) - reported):
        known = ", ".join(sorted(reported)[:10])
        raise ConfigError([f"triggers.objects: the detector does not report {label!r}; it reports {known}"])


def known_secrets(path: Path) -> list[str]:
    """What must never appear in a log or a row: every value that stands in for a `${…}` in the file, the keys, and the
    passwords and tokens of its addresses."""
    tables = _parse(path)
    found = [_secret(kind, name, where, path.parent) for where, kind, name in _placeholders(tables)]
    for where, text in _texts(_fill_in(tables, path.parent)):
        found += [text] if where.endswith("api_key") else secrets_of(text)
    return list(dict.fromkeys(found))


def _parse(path: Path) -> dict[str, Any]:
    try:
        return tomli.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise ConfigError([f"{path}: no such file; give one with --config FILE"]) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([f"{path}: can't be read: {error}"]) from None
    except tomli.TOMLDecodeError as error:
        raise ConfigError([f"{path}:{error.lineno}:{error.colno}: not TOML: {error.msg}"]) from None


def _placeholders(tables: Any) -> Iterator[tuple[str, str, str]]:
    """(where, kind, name) of every `${kind:name}` in the strings of the file."""
    for where, text in _texts(tables):
        yield from ((where, match[1], match[2]) for match in _SECRET.finditer(text))


def _texts(tables: Any, where: str = "") -> Iterator[tuple[str, str]]:
    """(where, text) of every string of the file."""
    if isinstance(tables, str):
        yield where, tables
    elif isinstance(tables, dict):
        for key, value in tables.items():
            yield from _texts(value, f"{where}.{key}" if where else key)
    elif isinstance(tables, list):
        for index, value in enumerate(tables):
            yield from _texts(value, f"{where}[{index}]")


def _fill_in(tables: Any, base_dir: Path, where: str = "") -> Any:
    if isinstance(tables, str):
        return _SECRET.sub(lambda match: _secret(match[1], match[2], where, base_dir), tables)
    if isinstance(tables, dict):
        return {key: _fill_in(value, base_dir, f"{where}.{key}" if where else key) for key, value in tables.items()}
    if isinstance(tables, list):
        return [_fill_in(value, base_dir, f"{where}[{index}]") for index, value in enumerate(tables)]
    return tables


def _secret(kind: str, name: str, where: str, base_dir: Path) -> str:
    return _from_environment(name, where) if kind == "env" else _from_credentials(name, where, base_dir)


def _from_environment(name: str, where: str) -> str:
    if (value := os.environ.get(name)) is None:
        raise ConfigError([f"{where}: ${{env:{name}}}: the environment variable {name} is not set"])
    return value


def _from_credentials(name: str, where: str, base_dir: Path) -> str:
    """A file of that name where systemd puts credentials; without systemd, in `credentials/` beside the file."""
    file = Path(os.environ.get("CREDENTIALS_DIRECTORY") or base_dir / "credentials") / name
    try:
        with file.open("rb") as opened:
            return opened.read(_SECRET_BYTES_MAX).decode("utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise ConfigError([f"{where}: ${{credential:{name}}}: {reason}: {file}"]) from None


def _line(detail: ErrorDetails) -> str:
    where = _key_path(detail["loc"])
    match detail["type"]:
        case "extra_forbidden":
            return f"{where}: unknown key"
        case "missing":
            return f"{where}: missing; it has no default"
        case "union_tag_invalid":
            return f"{where}.kind: {detail['ctx']['tag']!r} is not one of {detail['ctx']['expected_tags']}"
        case "union_tag_not_found":
            return f"{where}.kind: missing; it says which provider this is"
        case "tuple_type" if where in ("cameras", "providers", "questions"):
            return f"{where}: expected tables in double brackets, [[{where}]]"
        case "model_type" | "model_attributes_type" | "dict_type":
            return f"{where}: expected a table, [{where}]"
        case "string_pattern_mismatch":
            return f"{where}: expected only letters, digits, - and _, the first a letter or digit{_given(detail)}"
    message = detail["msg"].removeprefix("Value error, ")
    return f"{where}: {message}{_given(detail)}" if where else message


def _given(detail: ErrorDetails) -> str:
    """The value as given, where it is short and can't be a secret (no text: a URL or a key may hold one)."""
    value = detail["input"]
    if isinstance(value, bool | int | float):
        return f" (given: {value})"
    if isinstance(value, str) and detail["type"] in ("literal_error", "int_parsing", "float_parsing", "bool_parsing"):
        return f" (given: {value[:40]!r})"
    return ""


def _key_path(location: tuple[int | str, ...]) -> str:
    """`cameras[0].detect_fps`; the tag that pydantic adds for a union member is left out."""
    path = ""
    for index, part in enumerate(location):
        if isinstance(part, int):
            path += f"[{part}]"
        elif not (index == 2 and location[0] == "providers"):
            path += f".{part}" if path else part
    return path
