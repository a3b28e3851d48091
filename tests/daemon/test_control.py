"""The way to a running daemon's journal: who may come, what may be asked, and what else may come over it."""

import asyncio
import json
import os
import socket
import stat
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from daemon import control
from daemon.control import ControlError, NobodyListensError, ask, control_server
from pipeline.journal import Journal, JournalSettings, open_journal
from tests.pipeline.makers import an_event


@asynccontextmanager
async def a_daemon(folder: Path) -> AsyncIterator[Journal]:
    async with open_journal(folder, JournalSettings()) as journal, control_server(folder, journal):
        yield journal


async def said(folder: Path, line: bytes) -> dict[str, Any]:
    reader, writer = await asyncio.open_unix_connection(folder / "control.sock")
    writer.write(line)
    writer.write_eof()
    told = await reader.read()
    writer.close()
    answer = json.loads(told)
    assert isinstance(answer, dict)
    return answer


async def test_it_tells_what_the_journal_holds(tmp_path: Path) -> None:
    async with a_daemon(tmp_path) as journal:
        await journal.accept(an_event())
        assert (await ask(tmp_path, {"command": "counts"}))["counts"]["waiting"] == 1


async def test_a_socket_for_the_daemons_user_alone_that_is_gone_with_it(tmp_path: Path) -> None:
    async with a_daemon(tmp_path):
        mode = (tmp_path / "control.sock").stat().st_mode
        assert (stat.S_ISSOCK(mode), mode & 0o777) == (True, 0o600)
    assert not (tmp_path / "control.sock").exists()
    with pytest.raises(NobodyListensError):
        await ask(tmp_path, {"command": "counts"})


async def test_the_socket_of_a_daemon_that_was_killed_is_no_obstacle(tmp_path: Path) -> None:
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(tmp_path / "control.sock"))
    left.close()
    with pytest.raises(NobodyListensError):
        await ask(tmp_path, {"command": "counts"})
    async with a_daemon(tmp_path):
        assert await ask(tmp_path, {"command": "counts"})


async def test_a_state_folder_with_a_name_longer_than_a_sockets_may_be(tmp_path: Path) -> None:
    folder = tmp_path / ("deep" * 20) / ("deeper" * 20)
    async with a_daemon(folder):
        assert len(str(folder)) > 107
        assert await ask(folder, {"command": "counts"})


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"\n",
        b"nonsense\n",
        b'{"command": "rm -rf"}\n',
        b"[]\n",
        b"7\n",
        b'{"command": "retry-dead-letters"}\n',
        b'{"command": "retry-dead-letters", "seqs": ["one"]}\n',
        b'{"command": "retry-dead-letters", "seqs": [[]]}\n',
        b"\xff\xfe\n",
    ],
)
async def test_what_is_no_request_gets_an_error_and_harms_nothing(tmp_path: Path, line: bytes) -> None:
    async with a_daemon(tmp_path):
        assert set(await said(tmp_path, line)) == {"error"}
        assert await ask(tmp_path, {"command": "counts"})


async def test_a_line_without_end_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "REQUEST_BYTES_MAX", 1000)
    async with a_daemon(tmp_path):
        reader, writer = await asyncio.open_unix_connection(tmp_path / "control.sock")
        writer.write(b"x" * 100_000)
        assert await reader.read() == b""
        writer.close()
        assert await ask(tmp_path, {"command": "counts"})


async def test_who_says_nothing_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "TIMEOUT_S", 0.05)
    with capture_logs() as logs:
        async with a_daemon(tmp_path):
            reader, writer = await asyncio.open_unix_connection(tmp_path / "control.sock")
            assert await reader.read() == b""
            writer.close()
    assert [log["event"] for log in logs] == ["control.failed"]


async def test_a_daemon_that_ends_waits_for_nobody(tmp_path: Path) -> None:
    async with asyncio.timeout(5):
        async with a_daemon(tmp_path):
            reader, writer = await asyncio.open_unix_connection(tmp_path / "control.sock")
            await asyncio.sleep(0.05)
        assert await reader.read() == b""
        writer.close()


async def test_a_journal_that_failed_is_an_error_for_whoever_asks(tmp_path: Path) -> None:
    async with a_daemon(tmp_path) as journal:
        with pytest.raises(Exception, match="division"):
            await journal._do(lambda _: 1 / 0)
        with pytest.raises(ControlError, match="the journal failed"):
            await ask(tmp_path, {"command": "counts"})


async def test_who_does_not_answer_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "TIMEOUT_S", 0.05)
    with socket.socket(socket.AF_UNIX) as deaf:
        deaf.bind(str(tmp_path / "control.sock"))
        deaf.listen()
        with pytest.raises(ControlError, match="takes too long"):
            await ask(tmp_path, {"command": "counts"})


async def test_where_nothing_can_be_made_the_daemon_does_without(tmp_path: Path) -> None:
    (tmp_path / "control.sock").mkdir()
    with capture_logs() as logs:
        async with a_daemon(tmp_path) as journal:
            assert await journal.counts()
    assert [log["event"] for log in logs] == ["control.unavailable"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
async def test_another_user_is_turned_away_even_with_a_way_in(tmp_path: Path) -> None:
    ways = [tmp_path, *tmp_path.parents]
    before = {way: way.stat().st_mode & 0o7777 for way in ways}
    code = """
import os, socket, sys
os.setgroups([]); os.setgid(4242); os.setuid(4242)
with socket.socket(socket.AF_UNIX) as way:
    way.connect(sys.argv[1])
    try:
        way.sendall(b'{"command": "counts"}\\n')
        print(way.recv(1000))
    except (ConnectionResetError, BrokenPipeError):
        print(b"")
"""
    async with a_daemon(tmp_path):
        for way in ways:
            way.chmod(before[way] | 0o055)
        (tmp_path / "control.sock").chmod(0o666)
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", code, str(tmp_path / "control.sock"), stdout=subprocess.PIPE
        )
        out, _ = await process.communicate()
        for way in ways:
            way.chmod(before[way])
    assert out == b"b''\n"
