"""`lva analyze`: folders in, rows out, and no picture ever overwritten."""

import asyncio
import csv
import json
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from aiohttp import web

from tests.cameras.giants import giant_jpeg, giant_png
from tests.commands.conftest import configure
from tests.commands.lva import lva, start_lva
from tests.providers.wire import Wire, told

ASK = ("--question", "open=yesno:Is the gate open?", "--question", "people=count:person")


def a_model(wire: Wire) -> None:
    likely = {"answer": "yes", "probabilities": {"yes": 0.9, "no": 0.1}, "mass": 0.8}
    wire.on("/v1/query", told({**likely, "model": "moondream-test"}))
    wire.on("/v1/detect", told({"objects": [{"x_min": 0.1, "y_min": 0.1, "x_max": 0.2, "y_max": 0.2}]}))


async def test_each_picture_of_a_folder_becomes_a_row(wire: Wire, folder: Path) -> None:
    a_model(wire)
    configure(folder, wire)
    ran = await lva("analyze", "pictures", *ASK, cwd=folder)
    rows = {row["image"]: row for row in ran.rows}
    assert sorted(rows) == ["pictures/a.jpg", "pictures/b.png", "pictures/below/c.bmp", "pictures/broken.jpg"]
    good = rows["pictures/a.jpg"]
    assert (good["status"], good["model"]) == ("ok", "moondream-test")
    assert {name: told["value"] for name, told in good["answers"].items()} == {"open": True, "people": 1}
    assert rows["pictures/broken.jpg"]["status"] == "error"
    assert ran.code == 1, "one picture failed"


async def test_the_same_command_again_goes_on_where_it_stopped(wire: Wire, folder: Path) -> None:
    a_model(wire)
    configure(folder, wire)
    command = ("analyze", "pictures/a.jpg", "pictures/b.png", *ASK, "--json", "rows.jsonl")
    assert (await lva(*command[:2], *command[3:], cwd=folder)).code == 0
    file = folder / "rows.jsonl"
    file.write_text(file.read_text() + '{"image": "pictures/b.p')
    asked_before = len(wire.asked)
    assert (await lva(*command, cwd=folder)).code == 0
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert [row["image"] for row in rows] == ["pictures/a.jpg", "pictures/b.png"]
    assert len(wire.asked) == asked_before + 2


async def test_a_table_has_a_column_per_question(wire: Wire, folder: Path) -> None:
    a_model(wire)
    configure(folder, wire)
    ran = await lva("analyze", "pictures/a.jpg", *ASK, "--csv", "rows.csv", cwd=folder)
    assert (ran.code, ran.out) == (0, "")
    with (folder / "rows.csv").open(newline="") as file:
        [row] = csv.DictReader(file)
    assert (row["image"], row["answer_open"], row["answer_people"]) == ("pictures/a.jpg", "true", "1")


async def test_a_picture_given_as_the_file_to_write_is_left_alone(wire: Wire, folder: Path) -> None:
    configure(folder, wire)
    picture = folder / "pictures/a.jpg"
    before = picture.read_bytes()
    for option in ("--json", "--csv"):
        ran = await lva("analyze", "pictures", option, "pictures/a.jpg", cwd=folder)
        assert ran.code == 1
        assert "is left as it is" in ran.err
    assert picture.read_bytes() == before
    assert wire.asked == []


async def test_a_busy_server_is_waited_for(wire: Wire, folder: Path) -> None:
    wire.on("/v1/query", told({"error": "busy"}, 503, {"Retry-After": "0.2"}), told({"answer": "A grey field."}))
    configure(folder, wire)
    ran = await lva("analyze", "pictures/a.jpg", "--question", "What is it?", cwd=folder)
    assert ran.rows[0]["answers"]["question_1"]["value"] == "A grey field."


async def test_a_picture_that_a_provider_failed_at_is_not_left_to_the_detector(wire: Wire, folder: Path) -> None:
    wire.on("/v1/query", told({"error": "boom"}, 500))
    configure(folder, wire, more='[[providers]]\nkind = "detections"')
    [row] = (await lva("analyze", "pictures/a.jpg", "--question", "What is it?", cwd=folder)).rows
    assert (row["status"], "server_error" in row["message"]) == ("error", True)


async def test_ctrl_c_leaves_whole_rows_to_go_on_from(wire: Wire, folder: Path) -> None:
    hangs, began = asyncio.Event(), asyncio.Event()

    async def hang(_request: web.Request) -> web.StreamResponse:
        began.set()
        await hangs.wait()
        return web.json_response({"answer": "Too late."})

    wire.on("/v1/query", told({"answer": "A grey field."}), hang)
    configure(folder, wire, more="concurrency = 1")
    command = (
        "analyze",
        "pictures/a.jpg",
        "pictures/b.png",
        "--question",
        "What is it?",
        "--json",
        "rows.jsonl",
    )
    process = await start_lva(*command, cwd=folder)
    await began.wait()
    process.send_signal(signal.SIGINT)
    await process.communicate()
    hangs.set()
    assert process.returncode == 1
    file = folder / "rows.jsonl"
    assert [json.loads(line)["image"] for line in file.read_text().splitlines()] == ["pictures/a.jpg"], file.read_text()
    wire.on("/v1/query", told({"answer": "Another field."}))
    assert (await lva(*command, cwd=folder)).code == 0
    assert [json.loads(line)["image"] for line in file.read_text().splitlines()] == [
        "pictures/a.jpg",
        "pictures/b.png",
    ]


async def test_the_picture_that_is_sent_is_a_fresh_jpeg(wire: Wire, folder: Path) -> None:
    sizes = []

    async def query(request: web.Request) -> web.StreamResponse:
        sizes.append((await request.json())["image_url"][:27])
        return web.json_response({"answer": "A grey field."})

    wire.on("/v1/query", query)
    configure(folder, wire)
    await lva("analyze", "pictures/b.png", "--question", "What is it?", cwd=folder)
    assert sizes == ["data:image/jpeg;base64,/9j/"]


@pytest.mark.parametrize("make", [giant_png, giant_jpeg])
async def test_a_giant_picture_is_refused_by_its_header(wire: Wire, folder: Path, make: Callable[[], bytes]) -> None:
    """Case 31."""
    (folder / "giant.img").write_bytes(make())
    configure(folder, wire)
    [row] = (await lva("analyze", "giant.img", cwd=folder)).rows
    assert row["status"] == "error"
    assert row["message"] == "more than 50000000 pixels, which OPENCV_IO_MAX_IMAGE_PIXELS allows"
    assert wire.asked == []


async def test_without_a_provider_that_looks_it_says_so(folder: Path) -> None:
    (folder / "config.toml").write_text("")
    ran = await lva("analyze", "pictures/a.jpg", cwd=folder)
    assert "Only `detections` is configured" in ran.err
    assert ran.rows[0]["status"] == "degraded"


async def test_a_question_that_makes_no_sense_is_a_usage_error(folder: Path) -> None:
    (folder / "config.toml").write_text("")
    ran = await lva("analyze", "pictures", "--question", "day=choice:day:Is it day?", cwd=folder)
    assert ran.code == 2
    assert "at least two choices" in ran.err


async def test_each_provider_is_tested_by_itself(wire: Wire, folder: Path) -> None:
    a_model(wire)
    configure(folder, wire, more='[[providers]]\nkind = "ollama"\nbase_url = "http://127.0.0.1:9"\nmax_attempts = 1')
    ran = await lva("providers", "test", "pictures/a.jpg", "--json", cwd=folder)
    moondream, ollama = ran.rows
    assert (moondream["ok"], moondream["answers"]["people_count"]["value"]) == (True, 1)
    assert moondream["answers"]["hazard"]["value"] is True
    assert (ollama["ok"], "connection_error" in ollama["failure"]) == (False, True)
    assert ran.code == 1


async def test_the_table_of_providers_shows_answers_and_latency(wire: Wire, folder: Path) -> None:
    a_model(wire)
    configure(folder, wire)
    ran = await lva("providers", "test", "pictures/a.jpg", cwd=folder)
    assert ran.code == 0
    assert "moondream" in ran.out
    assert "hazard: true" in ran.out
