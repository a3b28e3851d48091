"""lva-model as a process: what it says while it starts, stops, and when something is wrong."""

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientConnectionError, ClientSession

from providers.local.engine import ENGINES, open_engine
from providers.local.errors import ModelError
from providers.local.settings import ModelSettings
from tests.local.conftest import VECTORS, free_port


class Server:
    """A process, and the lines of its log."""

    def __init__(self, process: asyncio.subprocess.Process, port: int) -> None:
        self.process = process
        self.url = f"http://127.0.0.1:{port}"
        self._reading: asyncio.Task[None] | None = None

    async def until(self, event: str) -> dict[str, Any]:
        assert self.process.stdout is not None
        async with asyncio.timeout(120):
            async for line in self.process.stdout:
                print(line.decode(), end="")
                if (told := json.loads(line))["event"] == event:
                    return dict(told)
        raise AssertionError(f"it never said {event}")

    def read_on(self) -> None:
        """Whatever else it says, so that it never waits for a reader."""
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self.process.stdout is not None
        async for _line in self.process.stdout:
            pass

    async def end(self) -> None:
        if self.process.returncode is None:
            self.process.kill()
        await (self._reading or self._read())
        await self.process.wait()

    async def post(self, body: Any) -> tuple[int, dict[str, Any]]:
        async with (
            ClientSession() as session,
            session.post(f"{self.url}/v1/query", json=body) as response,
        ):
            return response.status, await response.json()


@asynccontextmanager
async def serving(folder: Path, model: Path, more: str = "", model_more: str = "") -> AsyncIterator[Server]:
    port = free_port()
    (folder / "lva-model.toml").write_text(
        f'[model]\nfolder = "{model}"\nprecision = "f32"\nthreads = 1\n{model_more}\n[server]\nport = {port}\n{more}'
    )
    process = await start("--config", str(folder / "lva-model.toml"), "--parent", str(os.getpid()))
    server = Server(process, port)
    try:
        yield server
    finally:
        await server.end()


async def start(*arguments: str) -> asyncio.subprocess.Process:
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "providers.local", *arguments, stdout=pipe, stderr=pipe
    )


async def test_it_answers_until_it_is_told_to_stop(tmp_path: Path, model_folder: Path) -> None:
    async with serving(tmp_path, model_folder) as server:
        assert (await server.until("model.loading"))["address"] == server.url
        assert "float32" in (await server.until("model.ready"))["model"]
        [told, *_] = json.loads((VECTORS / "vectors.json").read_text())["text_only_query"]
        body = {"question": told["question"], "settings": {"max_tokens": 16}}
        status, answer = await server.post(body)
        assert (status, answer["answer"]) == (200, told["text"])
        server.process.send_signal(signal.SIGTERM)
        await server.until("model.stopped")
        assert await asyncio.wait_for(server.process.wait(), 60) == 0
        with pytest.raises(ClientConnectionError):
            await server.post(body)


async def test_a_stop_while_it_loads_is_obeyed_at_once(tmp_path: Path, model_folder: Path) -> None:
    async with serving(tmp_path, model_folder) as server:
        await server.until("model.loading")
        assert (await server.post({"question": "?"}))[0] == 503
        server.process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(server.process.wait(), 60) == 0


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (None, "No such file"),
        ("[model", "Expected"),
        ("[model]\n", "model.folder: Field required"),
        ('[model]\nfolder = "."\nengine = "gpt"\n', "model.engine"),
        ('[model]\nfolder = "."\nspeed = 9\n', "model.speed: Extra inputs"),
        ('[model]\nfolder = "."\n[server]\ntoken_file = "none"\n', "server.token_file: none: No such file"),
        ('[model]\nfolder = "."\n[server]\ntoken_file = "/dev/null"\n', "server.token_file: /dev/null is empty"),
    ],
)
async def test_a_configuration_that_is_wrong_is_said_in_one_line(
    tmp_path: Path, config: str | None, words: str
) -> None:
    file = tmp_path / "lva-model.toml"
    if config is not None:
        file.write_text(config)
    process = await start("--config", str(file))
    _, said = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 78
    assert said.decode().startswith("lva-model: ")
    assert words in said.decode()
    assert said.decode().count("\n") == 1


async def test_a_model_that_is_not_there_ends_it(tmp_path: Path) -> None:
    async with serving(tmp_path, tmp_path) as server:
        assert "config.json" in (await server.until("model.unusable"))["reason"]
        assert await asyncio.wait_for(server.process.wait(), 60) == 78


async def test_a_port_that_is_taken_ends_it(tmp_path: Path, model_folder: Path) -> None:
    async with serving(tmp_path, model_folder) as server:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", int(server.url.rsplit(":", 1)[1])))
            taken.listen()
            assert "address" in (await server.until("model.unusable"))["reason"]
        assert await asyncio.wait_for(server.process.wait(), 60) == 78


async def test_when_the_engine_fails_callers_hear_it_and_the_process_ends(
    tmp_path: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever started it starts it anew. Here the device fails: its step is replaced by one that raises."""
    site = tmp_path / "sitecustomize.py"
    site.write_text(
        "import sys\n"
        "class Breaks:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'providers.local.moondream2.scheduler':\n"
        "            from providers.local.moondream2 import batch\n"
        "            def step(self): raise RuntimeError('device-side assert')\n"
        "            batch.Batch.step = step\n"
        "sys.meta_path.insert(0, Breaks())\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}")
    async with serving(tmp_path, model_folder) as server:
        await server.until("model.ready")
        status, answer = await server.post({"question": "?"})
        assert (status, "device-side assert" in answer["error"]["message"]) == (500, True)
        assert await asyncio.wait_for(server.process.wait(), 60) == 1


@pytest.mark.parametrize("engine", list(ENGINES))
def test_without_torch_it_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: Any) -> None:
    monkeypatch.delitem(sys.modules, ENGINES[engine], raising=False)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ModelError, match="needs the extra `models`"):
        open_engine(ModelSettings(engine=engine, folder=tmp_path))
