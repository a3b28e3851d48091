"""Case 58: a secret is found nowhere: not in the log, rows, STATUS, pages, files, arguments or environments, whatever
fails and whoever repeats it."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import asyncpg
import cv2
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from pipeline.migrations import TABLES
from tests.cameras.pictures import scene
from tests.cameras.rtsp_scripted import Fault, Script, ScriptedRtspServer
from tests.daemon.lva import lva
from tests.daemon.test_http_surface import free_port, raw
from tests.daemon.test_run import DEMO
from tests.faults.canary import CANARIES, Search
from tests.faults.proxy import Proxy
from tests.faults.running import Running, running

PAGES = ("/metrics", "/api/stats", "/api/version", "/healthz", "/readyz", "/nothing")

CONFIG = """
site = "test"
drain_s = 10
[http]
port = {http}
[log]
level = "debug"
summary_s = 0.5
[detector]
model = "{demo}/world-yolo11n.onnx"
size_px = 416
[triggers.camera_down]
after_s = 0
[[cameras]]
name = "yard"
url = "{demo}/yard.mp4"
loop = true
[[cameras]]
name = "door"
url = "{door}"
retry_s = 0.2
retry_max_s = 0.5
[[cameras]]
name = "gate"
url = "http://127.0.0.1:{web}/video?token={token}"
retry_s = 0.2
retry_max_s = 0.5
[[providers]]
name = "unauthorized"
{provider}
base_url = "http://127.0.0.1:{web}/401/v1"
[[providers]]
name = "failing"
{provider}
base_url = "http://127.0.0.1:{web}/500/v1"
[[providers]]
name = "babbling"
{provider}
base_url = "http://127.0.0.1:{web}/200/v1"
[[providers]]
kind = "detections"
[database]
url = "{database}"
connect_timeout_s = 1
"""
PROVIDER = 'kind = "moondream"\ndialect = "cloud"\napi_key = "${credential:key}"\nmax_attempts = 1'


async def gossip(request: web.Request) -> web.Response:
    """Repeats whatever it was told, in a body of the wanted status: an error, or no JSON at all."""
    told = f"{request.url} {dict(request.headers)}"
    status = int(request.match_info.get("status", "401"))
    if status == 200:
        return web.Response(text=f"<html>{told}</html>")
    return web.json_response({"error": {"message": told}}, status=status)


@dataclass(slots=True)
class World:
    """All that the daemon knows a secret of, and where they are written down."""

    folder: Path
    door: ScriptedRtspServer
    way: Proxy
    http_port: int
    web_port: int

    @property
    def credentials(self) -> Path:
        return self.folder / "credentials"

    @property
    def config(self) -> Path:
        return self.folder / "config.toml"

    def write(self) -> None:
        self.credentials.mkdir()
        self.set_door_password("camera password before")
        (self.credentials / "key").write_text(CANARIES["provider key"])
        (self.credentials / "pg").write_text(quote(CANARIES["database password"], safe=""))
        self.config.write_text(
            CONFIG.format(
                demo=DEMO,
                http=self.http_port,
                web=self.web_port,
                door=self.door.url("viewer:${credential:door}@"),
                token=CANARIES["camera token"],
                provider=PROVIDER,
                database=self.way.dsn.replace("@", ":${credential:pg}@", 1),
            )
        )

    def set_door_password(self, name: str) -> None:
        (self.credentials / "door").write_text(quote(CANARIES[name], safe=""))


@asynccontextmanager
async def a_world(folder: Path, dsn: str) -> AsyncIterator[World]:
    app = web.Application(client_max_size=1 << 24)
    app.router.add_route("*", "/{status:[0-9]+}/{rest:.*}", gossip)
    app.router.add_route("*", "/{rest:.*}", gossip)
    way = await Proxy(dsn).open()
    async with TestServer(app, host="127.0.0.1") as gossips:
        assert gossips.port is not None
        with ScriptedRtspServer(Script(Fault.CLOSE, login=("viewer", CANARIES["camera password"]))) as door:
            world = World(folder, door, way, free_port(), gossips.port)
            world.write()
            await way.close()  # the database is away until somebody opens it again
            yield world
    await way.close()


async def live_through_it(world: World, daemon: Running, search: Search) -> None:
    """It is refused, told off, cut, killed, told anew, and at last let into its database."""
    for event in ("camera.down", "event.analyzed", "provider.parked", "upload.interrupted"):
        await daemon.logged(event)
    search.look_at_processes("processes", daemon.pid)
    world.set_door_password("camera password")
    daemon.process.send_signal(signal.SIGHUP)
    await daemon.logged("config.reloaded")
    await daemon.logged("camera.up", lambda line: line["camera"] == "door")
    daemon.kill_children()
    await daemon.logged("camera.stderr")
    await refuse_a_configuration(world, daemon)
    for page in PAGES:
        search.look(page, await raw(world.http_port, f"GET {page} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()))
    await look_at_commands(world, search)
    search.look_into("state folder", world.folder / "state")
    await world.way.open()
    await daemon.logged("event.analyzed", since=await daemon.logged("upload.resumed"))


async def refuse_a_configuration(world: World, daemon: Running) -> None:
    good = world.config.read_text()
    world.config.write_text(good.replace("drain_s = 10", "drain_s = '${credential:door}'"))
    daemon.process.send_signal(signal.SIGHUP)
    await daemon.logged("config.refused")
    world.config.write_text(good)


async def look_at_commands(world: World, search: Search) -> None:
    picture = world.folder / "picture.jpg"
    cv2.imwrite(str(picture), scene(0))
    wrong = world.folder / "wrong.toml"
    mistakes = {"[http]\nport": "[http]\nprot", "summary_s = 0.5": "summary_s = '${credential:key}'"}
    text = world.config.read_text()
    for right, mistake in mistakes.items():
        text = text.replace(right, mistake)
    wrong.write_text(text)
    for words in (
        ("config", "show"),
        ("validate",),
        ("status",),
        ("status", "--json"),
        ("cameras", "test"),
        ("providers", "test", str(picture)),
        ("events",),
        ("db", "status"),
    ):
        search.look(" ".join(words[:2]), await said(*words, "--config", str(world.config), world=world))
    search.look("validate, of a wrong file", await said("validate", "--config", str(wrong), world=world))


def said(*words: str, world: World) -> Awaitable[str]:
    env = os.environ | {"CREDENTIALS_DIRECTORY": str(world.credentials)}

    def run() -> str:
        done = lva(*words, env=env)
        assert done.stdout + done.stderr
        return done.stdout + done.stderr

    return asyncio.to_thread(run)


async def look_at_rows(dsn: str, search: Search) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        for table in TABLES:
            rows = await connection.fetch(f"SELECT to_json({table})::text AS row FROM {table}")
            search.look(f"rows of {table}", "\n".join(row["row"] for row in rows))
        assert await connection.fetchval("SELECT count(*) FROM analyses")
    finally:
        await connection.close()


async def search_after(folder: Path, dsn: str, module: str) -> Search:
    search = Search()
    async with a_world(folder, dsn) as world:
        async with running(world.config, module, CREDENTIALS_DIRECTORY=str(world.credentials)) as daemon:
            await live_through_it(world, daemon, search)
        search.look("log", f"{daemon.lines} {daemon.strays}")
        search.look("STATUS", str(daemon.notices))
        search.look_into("state folder", world.folder / "state")
    await look_at_rows(dsn, search)
    return search


async def test_a_secret_is_found_nowhere(tmp_path: Path, database: str) -> None:
    search = await search_after(tmp_path, database, "daemon")
    assert search.found == {}
    assert {"log", "STATUS", "state folder", "processes environ", "rows of events", *PAGES} <= search.looked


@pytest.mark.faults
async def test_with_the_masks_off_the_search_finds_them(tmp_path: Path, database: str) -> None:
    found = (await search_after(tmp_path, database, "tests.faults.unmasked")).found
    assert {"camera password", "provider key"} <= found["log"]  # the token in a URL is in no message, masked or not
    assert "provider key" in found["rows of analyses"]
    assert "provider key" in found["state folder"]


@pytest.mark.parametrize("secret", CANARIES.values())
@pytest.mark.parametrize("around", ["{}", "rtsp://me:{}@camera/x", "Basic {}"])
def test_the_search_sees_a_secret_in_whatever_surrounds_it(secret: str, around: str) -> None:
    search = Search()
    search.look("here", around.format(secret))
    search.look("there", around.format(quote(secret, safe="")))
    assert set(search.found) == {"here", "there"}
