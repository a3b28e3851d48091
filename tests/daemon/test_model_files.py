"""Fetching weights: from a real server that breaks off, lies and goes away."""

import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from click.testing import CliRunner

from daemon import model_files
from daemon.cli import lva
from daemon.model_files import ModelEntry, ModelFile, ModelFileError, manifest, problems, pull, state_of

CONTENT = bytes(range(256)) * 12_000
FILE = ModelFile("weights.bin", "https://hub.example/a/weights.bin", len(CONTENT), hashlib.sha256(CONTENT).hexdigest())


class Hub:
    """Serves CONTENT as often as it is asked, in its own way each time; the last way stays."""

    def __init__(self) -> None:
        self.ways: list[Callable[[web.Request], Awaitable[web.StreamResponse]]] = [whole]
        self.ranges: list[str | None] = []
        self.url = ""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.ranges.append(request.headers.get("Range"))
        way = self.ways.pop(0) if len(self.ways) > 1 else self.ways[0]
        return await way(request)


def start_of(request: web.Request) -> int:
    return int(request.headers.get("Range", "bytes=0-").removeprefix("bytes=").rstrip("-"))


async def whole(request: web.Request) -> web.StreamResponse:
    start = start_of(request)
    return web.Response(body=CONTENT[start:], status=206 if start else 200)


async def without_ranges(_request: web.Request) -> web.StreamResponse:
    return web.Response(body=CONTENT)


async def breaks_off(request: web.Request) -> web.StreamResponse:
    """A third of what is left, then the connection is gone."""
    rest = CONTENT[start_of(request) :]
    response = web.StreamResponse(status=206 if start_of(request) else 200)
    response.content_length = len(rest)
    await response.prepare(request)
    await response.write(rest[: max(1, len(rest) // 3)])
    assert request.transport is not None
    request.transport.abort()
    return response


async def other(_request: web.Request) -> web.StreamResponse:
    return web.Response(body=bytes(len(CONTENT)))


async def endless(request: web.Request) -> web.StreamResponse:
    return web.Response(body=CONTENT + b"more")


async def missing(_request: web.Request) -> web.StreamResponse:
    return web.Response(status=404)


async def busy(_request: web.Request) -> web.StreamResponse:
    return web.Response(status=503)


async def no_more(_request: web.Request) -> web.StreamResponse:
    return web.Response(status=416)


@pytest.fixture
async def hub(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Hub]:
    monkeypatch.setattr(model_files, "RETRY_S", 0.001)
    app, opened = web.Application(), Hub()
    app.router.add_get("/a/weights.bin", opened.handle)
    async with TestServer(app, host="127.0.0.1") as server:
        opened.url = str(server.make_url("")).rstrip("/")
        yield opened


async def pulled(folder: Path, hub: Hub, file: ModelFile = FILE) -> bool:
    told: list[int] = []
    is_new = await pull(folder, file, lambda done, _: told.append(done), hub.url)
    assert (folder / file.name).read_bytes() == CONTENT
    assert not told or told[-1] == len(CONTENT)
    return is_new


async def test_a_file_is_fetched_once(tmp_path: Path, hub: Hub) -> None:
    assert state_of(tmp_path, FILE) == "missing"
    assert await pulled(tmp_path, hub)
    assert state_of(tmp_path, FILE) == "ready"
    assert not await pulled(tmp_path, hub)
    assert hub.ranges == [None]


async def test_what_breaks_off_goes_on_where_it_was(tmp_path: Path, hub: Hub) -> None:
    hub.ways = [breaks_off, breaks_off, busy, breaks_off, whole]
    assert await pulled(tmp_path, hub)
    assert len(hub.ranges) == 5
    assert hub.ranges[0] is None
    assert None not in hub.ranges[1:]


async def test_what_an_earlier_run_left_is_gone_on_with(tmp_path: Path, hub: Hub) -> None:
    hub.ways = [breaks_off, missing]
    with pytest.raises(ModelFileError, match="404"):
        await pull(tmp_path, FILE, lambda *_: None, hub.url)
    assert state_of(tmp_path, FILE) == "partial"
    hub.ways = [whole]
    assert await pulled(tmp_path, hub)
    assert str(hub.ranges[-1]).startswith("bytes=")


@pytest.mark.parametrize("unknown", [False, True])
async def test_a_server_that_knows_no_ranges_sends_it_all_again(tmp_path: Path, hub: Hub, unknown: bool) -> None:
    hub.ways = [breaks_off, without_ranges]
    assert await pulled(tmp_path, hub, replace(FILE, size=None) if unknown else FILE)


async def test_another_file_is_deleted_and_never_gets_the_name(tmp_path: Path, hub: Hub) -> None:
    hub.ways = [other]
    with pytest.raises(ModelFileError, match=r"its SHA-256 is .*, and should be"):
        await pull(tmp_path, FILE, lambda *_: None, hub.url)
    assert list(tmp_path.iterdir()) == []
    hub.ways = [whole]
    assert await pulled(tmp_path, hub)


async def test_a_server_that_sends_without_end_is_left(tmp_path: Path, hub: Hub) -> None:
    hub.ways = [endless]
    with pytest.raises(ModelFileError, match="sends more"):
        await pull(tmp_path, FILE, lambda *_: None, hub.url)


@pytest.mark.parametrize(("way", "asked"), [(missing, 1), (busy, 5)])
async def test_what_no_try_will_get_is_not_tried_and_the_rest_not_for_ever(
    tmp_path: Path, hub: Hub, way: Callable[[web.Request], Awaitable[web.StreamResponse]], asked: int
) -> None:
    hub.ways = [way]
    with pytest.raises(ModelFileError, match=r"weights\.bin"):
        await pull(tmp_path, FILE, lambda *_: None, hub.url)
    assert len(hub.ranges) == asked


async def test_a_part_that_is_whole_already_is_taken(tmp_path: Path, hub: Hub) -> None:
    for size, way in ((FILE.size, missing), (None, no_more)):
        (tmp_path / "weights.bin.part").write_bytes(CONTENT)
        hub.ways = [way]
        assert await pulled(tmp_path, hub, replace(FILE, size=size))
        (tmp_path / "weights.bin").unlink()


async def test_a_part_that_is_too_long_is_begun_anew(tmp_path: Path, hub: Hub) -> None:
    (tmp_path / "weights.bin.part").write_bytes(CONTENT + b"x")
    assert await pulled(tmp_path, hub)


async def test_a_damaged_file_is_fetched_again(tmp_path: Path, hub: Hub) -> None:
    (tmp_path / FILE.name).write_bytes(bytes(len(CONTENT)))
    entry = ModelEntry("some", "", "", (FILE,))
    assert "should be" in next(problems(tmp_path, entry))
    assert await pulled(tmp_path, hub)
    assert list(problems(tmp_path, entry)) == []


async def test_a_hash_that_nobody_knows_is_recorded_and_held_to(tmp_path: Path, hub: Hub) -> None:
    file = replace(FILE, size=None, sha256="")
    assert await pulled(tmp_path, hub, file)
    (tmp_path / file.name).write_bytes(b"something else")
    assert FILE.sha256 in next(problems(tmp_path, ModelEntry("some", "", "", (file,))))
    hub.ways = [other]
    with pytest.raises(ModelFileError, match="should be"):
        await pull(tmp_path, file, lambda *_: None, hub.url)


async def test_a_file_that_was_copied_by_hand_is_recorded_without_a_network(tmp_path: Path, hub: Hub) -> None:
    hub.ways = [missing]
    (tmp_path / FILE.name).write_bytes(CONTENT)
    assert not await pulled(tmp_path, hub, replace(FILE, size=None, sha256=""))
    assert hub.ranges == []


def test_the_manifest_is_whole() -> None:
    for entry in manifest().values():
        for file in entry.files:
            assert bool(file.content) != file.url.startswith("https://")
    [config, weights, tokenizer] = manifest()["moondream2"].files
    assert (config.content, weights.size, len(tokenizer.sha256)) == ("{}\n", 3_854_538_968, 64)


def test_the_command_says_what_to_do_without_a_network(tmp_path: Path) -> None:
    ended = CliRunner().invoke(
        lva, ["models", "pull", "moondream2", "--to", str(tmp_path), "--mirror", "http://127.0.0.1:9"]
    )
    assert ended.exit_code == 1
    assert "Without a network" in ended.output
    assert str(tmp_path / "moondream2" / "model.safetensors") in ended.output
    assert "sha256 70a7d94c" in ended.output
    assert (tmp_path / "moondream2" / "config.json").read_text() == "{}\n"
    listed = CliRunner().invoke(lva, ["models", "list", "--to", str(tmp_path)], env={"COLUMNS": "200"})
    assert "missing" in listed.output
    verified = CliRunner().invoke(lva, ["models", "verify", "moondream2", "--to", str(tmp_path)])
    assert (verified.exit_code, "model.safetensors: No such file" in verified.output) == (1, True)
