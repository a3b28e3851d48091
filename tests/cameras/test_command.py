"""`lva cameras test`, as its user runs it."""

from pathlib import Path

from tests.cameras.pictures import a_clip, a_folder
from tests.cameras.rtsp_scripted import Fault, Script, ScriptedRtspServer
from tests.commands.lva import lva

TIMEOUTS = "open_timeout_s = 2\nread_timeout_s = 2\n"


def a_config(folder: Path, cameras: dict[str, str]) -> None:
    sections = [f'[[cameras]]\nname = "{name}"\nurl = "{url}"\n{TIMEOUTS}' for name, url in cameras.items()]
    (folder / "config.toml").write_text("\n".join(sections))


async def test_it_tells_what_each_camera_sends_or_why_it_does_not(tmp_path: Path) -> None:
    a_clip(tmp_path / "clip.mp4", frames=5)
    a_folder(tmp_path / "pictures", 2)
    with ScriptedRtspServer() as good, ScriptedRtspServer(Script(Fault.UNAUTHORIZED)) as locked:
        a_config(
            tmp_path,
            {
                "yard": good.url("admin:canary-4417@"),
                "door": locked.url("admin:canary-4417@"),
                "clip": "clip.mp4",
                "pictures": "pictures",
                "gone": "gone.mp4",
            },
        )
        ran = await lva("cameras", "test", "--json", cwd=tmp_path)
    rows = {row["camera"]: row for row in ran.rows}
    assert ran.code == 1
    assert [name for name, row in rows.items() if row["reachable"]] == ["yard", "clip", "pictures"]
    assert (rows["yard"]["codec"], rows["yard"]["width"], rows["yard"]["height"]) == ("mjpeg", 320, 240)
    assert 20 <= rows["yard"]["fps"] <= 30
    assert rows["clip"]["fps"] == 10.0
    assert rows["door"]["failure"].startswith("auth: ")
    assert rows["gone"]["failure"] == "missing: No such file or directory"
    assert "canary-4417" not in ran.out + ran.err


async def test_as_a_table_with_only_the_good_ones_it_succeeds(tmp_path: Path) -> None:
    a_clip(tmp_path / "clip.mp4", frames=5)
    a_config(tmp_path, {"clip": "clip.mp4", "gone": "gone.mp4"})
    ran = await lva("cameras", "test", "clip", cwd=tmp_path)
    assert ran.code == 0
    assert "reachable" in ran.out
    assert "gone" not in ran.out


async def test_a_camera_that_is_not_configured_is_a_usage_error(tmp_path: Path) -> None:
    a_config(tmp_path, {"clip": "clip.mp4"})
    ran = await lva("cameras", "test", "front", cwd=tmp_path)
    assert ran.code == 2
    assert "there is: clip" in ran.err
