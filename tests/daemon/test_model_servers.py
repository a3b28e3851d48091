"""Model servers that the daemon starts itself: real processes with a small model of random weights."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from structlog.testing import capture_logs

pytest.importorskip("torch", reason="torch is not installed (MODELS=0)")

from daemon.config import load_config
from daemon.model_servers import ModelServers
from providers.base import Analysis
from providers.local.settings import ModelSettings
from providers.open import open_providers
from providers.settings import MoondreamSettings
from tests.local.conftest import free_port, model_folder
from tests.providers.samples import FIRE, a_request

__all__ = ["model_folder"]

PATIENCE_S = 120

Logs = Sequence[Mapping[str, Any]]


def managed(folder: Path, port: int, name: str = "small", threads: int = 1) -> MoondreamSettings:
    return MoondreamSettings(
        kind="moondream",
        name=name,
        dialect="local",
        base_url=f"http://127.0.0.1:{port}/v1",
        managed=True,
        server=ModelSettings(folder=folder, precision="f32", threads=threads),
        timeout_s=PATIENCE_S,
    )


@asynccontextmanager
async def running(servers: ModelServers) -> AsyncIterator[None]:
    task = asyncio.create_task(servers.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})


async def logged(logs: Logs, event: str, times: int = 1) -> Mapping[str, Any]:
    """Wait for it; the last one."""
    async with asyncio.timeout(PATIENCE_S):
        while len(found := [one for one in logs if one["event"] == event]) < times:  # noqa: ASYNC110 - it is logged
            await asyncio.sleep(0.02)
    return found[-1]


def alive(pid: object) -> bool:
    return Path(f"/proc/{pid}").exists()


async def gone(pid: object) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while alive(pid):  # noqa: ASYNC110 - it is a process
            await asyncio.sleep(0.02)


async def test_it_answers_and_its_log_is_ours(model_folder: Path) -> None:
    settings = managed(model_folder, free_port())
    servers = ModelServers()
    servers.apply([settings])
    with capture_logs() as logs:
        async with running(servers), open_providers([settings]) as chain:
            started = await logged(logs, "model_server.started")
            ready = await logged(logs, "model.ready")
            assert (ready["provider"], ready["model"]) == ("small", f"moondream2 {model_folder.name} float32")
            [outcome] = await chain.analyze([a_request(FIRE)])
            assert isinstance(outcome, Analysis)
            assert outcome.model_version == ready["model"]
        assert not alive(started["pid"])


async def test_one_that_is_killed_is_started_anew(model_folder: Path) -> None:
    servers = ModelServers()
    servers.apply([managed(model_folder, free_port())])
    with capture_logs() as logs:
        async with running(servers):
            first = await logged(logs, "model_server.started")
            await logged(logs, "model.ready")
            os.kill(int(str(first["pid"])), signal.SIGKILL)
            died = await logged(logs, "model_server.died")
            assert (died["status"], died["provider"]) == (-9, "small")
            await logged(logs, "model.ready", times=2)


async def test_one_that_can_not_start_is_tried_again_and_says_why(tmp_path: Path) -> None:
    servers = ModelServers()
    servers.apply([managed(tmp_path, free_port())])
    with capture_logs() as logs:
        async with running(servers):
            assert "config.json" in str((await logged(logs, "model.unusable", times=2))["reason"])
            assert (await logged(logs, "model_server.died"))["status"] == 78


async def test_new_settings_replace_what_they_change_and_leave_the_rest(model_folder: Path) -> None:
    port = free_port()
    kept, changed = managed(model_folder, free_port(), "kept"), managed(model_folder, port, "changed")
    servers = ModelServers()
    servers.apply([kept, changed])
    with capture_logs() as logs:
        async with running(servers):
            await logged(logs, "model.ready", times=2)
            pids = {one["provider"]: one["pid"] for one in logs if one["event"] == "model_server.started"}
            for threads in (2, 3):
                servers.apply([kept, managed(model_folder, port, "changed", threads)])
            again = await logged(logs, "model_server.started", times=3)
            assert again["provider"] == "changed"
            assert not alive(pids["changed"])
            assert alive(pids["kept"])
            await logged(logs, "model.ready", times=3)
            assert not [one for one in logs if one["event"] == "model_server.died"]
            servers.apply([])
            await gone(pids["kept"])
            await gone(again["pid"])


async def test_they_are_settled_when_each_was_ready_or_has_died(model_folder: Path, tmp_path: Path) -> None:
    servers = ModelServers()
    servers.apply([managed(model_folder, free_port(), "well"), managed(tmp_path, free_port(), "empty")])
    with capture_logs() as logs:
        async with running(servers), asyncio.timeout(PATIENCE_S):
            await servers.settled()
            told = {(one["event"], one.get("provider")) for one in logs}
            assert ("model.ready", "well") in told
            assert ("model.unusable", "empty") in told
        servers.apply([])
        async with asyncio.timeout(PATIENCE_S):
            await servers.settled()


def test_the_section_of_a_managed_server(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text(
        '[[providers]]\nkind = "moondream"\ndialect = "local"\nmanaged = true\nserver = { folder = "model" }\n'
    )
    [provider] = load_config(file).providers
    assert isinstance(provider, MoondreamSettings)
    assert provider.server is not None
    assert provider.server.folder == tmp_path / "model"


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"dialect": "station", "managed": True, "server": {"folder": "x"}}, 'dialect = "local"'),
        ({"dialect": "local", "managed": True}, "folder of its model"),
        ({"dialect": "local", "server": {"folder": "x"}}, "managed = true"),
        (
            {"dialect": "local", "managed": True, "server": {"folder": "x"}, "base_url": "http://192.168.1.9:2021/v1"},
            "on this box",
        ),
    ],
)
def test_what_can_not_be_managed_is_refused(more: dict[str, object], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        MoondreamSettings.model_validate({"kind": "moondream"} | more)
