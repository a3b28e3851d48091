"""The service under a real systemd: one box from its installation to its end, told in order.

Each test leaves the service running, as the next one finds it. Needs root, debootstrap and systemd-nspawn; the box
has no network, and is gone afterwards.
"""

import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sysconfig
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.systemd.box import Box, Service, copy, eventually, remove
from tests.systemd.debian import CACHE, ROOT, bare_tree, wheels

pytestmark = [pytest.mark.systemd, pytest.mark.timeout(900)]

TOOLS = ("debootstrap", "systemd-nspawn", "nsenter")
CONFIG = "/etc/lva/config.toml"
PYTHON = "/usr/lib/lva/venv/bin/python"
ASK = """
import base64, json, urllib.request
picture = base64.b64encode(open("/source/tests/data/moondream2/images/b_378x378_gray.png", "rb").read()).decode()
body = {"image_url": "data:image/png;base64," + picture, "question": "Is it?", "choices": ["yes", "no"]}
request = urllib.request.Request("http://127.0.0.1:2021/v1/query", json.dumps(body).encode())
request.add_header("Content-Type", "application/json")
print(urllib.request.urlopen(request).read().decode())
"""
PASSWORD = "canary-Tr0ub4dor"
ENCRYPTED_PASSWORD = "canary-c0rrecthorse"
MODEL_FOLDER = "/var/lib/lva/models/moondream2"
MODELS_EXTRA = "/models-extra"
"""Where the box finds torch, which is too large to be installed there: the packages of who runs the tests."""
INSTALL = (
    "env",
    "PIP_NO_INDEX=1",
    "PIP_FIND_LINKS=/wheels",
    "PATH=/usr/sbin:/usr/bin:/sbin:/bin",
    "make",
    "--directory=/source",
)


@pytest.fixture(scope="module")
def box() -> Iterator[Box]:
    """A box into which the project was staged by `make install DESTDIR=`, and that was booted then."""
    if need := missing():
        pytest.skip(f"NOT RUN: the service under a real systemd; that needs {need}")
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        binds = {"/source": ROOT, "/wheels": wheels(), MODELS_EXTRA: Path(sysconfig.get_path("purelib"))}
        box = Box(CACHE / "box", CACHE / "console.log", binds)
        remove(box.tree)
        copy(bare_tree(), box.tree)
        try:
            stage(box)
            box.boot()
            yield box
        finally:
            box.power_off()
            remove(box.tree)


def missing() -> str:
    """What of this machine can't hold a box; empty: nothing."""
    if os.geteuid() != 0:
        return "root"
    if absent := [tool for tool in TOOLS if shutil.which(tool) is None]:
        return ", ".join(absent)
    if subprocess.run(["unshare", "--mount", "--pid", "--fork", "true"], capture_output=True, check=False).returncode:
        return "a root that may make namespaces"
    return ""


def stage(box: Box) -> None:
    box.run_before_boot(*INSTALL, "install", "DESTDIR=/stage")
    copy(box.file("/stage"), box.tree)
    remove(box.file("/stage"))


@pytest.fixture
def service(box: Box) -> Service:
    return Service(box)


def change_config(service: Service, change: Callable[[str], str]) -> None:
    file = service.box.file(CONFIG)
    file.write_text(change(file.read_text()))


@contextmanager
def wrong_config(service: Service, change: Callable[[str], str]) -> Iterator[None]:
    """For a while."""
    right = service.box.file(CONFIG).read_text()
    change_config(service, change)
    try:
        yield
    finally:
        change_config(service, lambda _wrong: right)


def journal_version(service: Service, statement: str = "") -> int:
    """What the stopped service's journal says of itself, before the statement."""
    program = "import apsw; journal = apsw.Connection('/var/lib/lva/journal.db'); print(journal.pragma('user_version'))"
    if statement:
        program += f"; journal.execute({statement!r})"
    as_lva = ("setpriv", "--reuid=lva", "--regid=lva", "--clear-groups")
    return int(service.box.run(*as_lva, PYTHON, "-c", program).stdout)


def nothing_accepted_is_lost(service: Service, accepted: set[str]) -> None:
    """Each of them is in Postgres with an outcome, in the end."""
    assert accepted
    eventually(
        lambda: accepted <= {key for key, event in service.events().items() if event["outcome"]},
        f"all {len(accepted)} accepted events have an outcome in Postgres",
    )


def test_what_was_staged_elsewhere_starts_as_it_is(service: Service) -> None:
    service.box.run("systemd-sysusers")
    service.box.run("systemd-tmpfiles", "--create")
    service.box.run("systemctl", "daemon-reload")
    service.systemctl("enable", "--now")
    assert service.is_running()
    eventually(lambda: "cams 1/1" in service.show("StatusText"), "STATUS says how many cameras are up")


def test_what_is_seen_is_in_postgres(service: Service) -> None:
    eventually(lambda: len(service.accepted()) >= 2, "events are accepted")
    nothing_accepted_is_lost(service, service.accepted())


def test_the_journal_has_a_json_object_a_line(service: Service) -> None:
    log = service.log()
    assert [
        line for line in log if not re.fullmatch(r'\{"timestamp": ".*", "level": "\w+", "event": ".*\}', line)
    ] == []
    assert service.told("daemon.ready")


def test_every_process_is_in_the_sandbox(service: Service) -> None:
    pids = service.pids()
    assert len(pids) > 3  # the daemon, a camera, Postgres
    lva = service.box.run("id", "--user", "lva").stdout.strip()
    for pid in pids:
        status = dict(
            re.findall(r"^(\w+):\s*(.*)$", service.box.run("cat", f"/proc/{pid}/status").stdout, re.MULTILINE)
        )
        assert status["Uid"].split() == [lva] * 4
        assert int(status["CapBnd"], 16) == int(status["CapEff"], 16) == 0
        assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")


def test_the_sandbox_is_what_the_unit_says(service: Service) -> None:
    inside = ("nsenter", f"--target={service.main_pid}", "--mount")
    for path in ("/etc/lva/new", "/usr/lib/lva/new", "/var/lib/new"):
        assert "Read-only file system" in service.box.run(*inside, "touch", path, check=False).stderr
    assert service.box.run(*inside, "ls", "/root/.profile", "/dev/mem", check=False).stdout == ""
    assert len(service.box.run("cat", f"/proc/{service.main_pid}/uid_map").stdout.splitlines()) == 2
    service.box.run("systemd-analyze", "security", "--threshold=15", "--no-pager", "lva.service")


def test_credentials_are_handed_over_and_nowhere_else(service: Service) -> None:
    box = service.box
    box.write("/etc/lva/credentials/door_password", PASSWORD + "\n", mode=0o600)
    box.write("/root/gate_password", ENCRYPTED_PASSWORD, mode=0o600)
    encrypted = "/etc/lva/credentials/gate_password.cred"
    box.run("systemd-creds", "encrypt", "--with-key=host", "--name=gate_password", "/root/gate_password", encrypted)
    box.write(
        "/etc/systemd/system/lva.service.d/credentials.conf",
        "[Service]\nLoadCredential=door_password:/etc/lva/credentials/door_password\n"
        f"LoadCredentialEncrypted=gate_password:{encrypted}\n",
    )
    cameras = "".join(
        f'\n[[cameras]]\nname = "{name}"\nurl = "rtsp://viewer:${{credential:{name}_password}}@127.0.0.1:9/"\n'
        for name in ("door", "gate")
    )
    change_config(service, lambda text: text.replace('yard.mp4"\n', 'yard.mp4"\nloop = true\n' + cameras))
    service.box.run("systemctl", "daemon-reload")
    service.systemctl("restart")
    eventually(lambda: {"door", "gate"} <= {line["camera"] for line in service.told("camera.down")}, "both are tried")
    found = box.run("ls", "-l", "/run/credentials/lva.service/").stdout
    assert re.findall(r"^(-r\S*) .* (\w+)$", found, re.MULTILINE) == [
        ("-r--------", "door_password"),
        ("-r--------", "gate_password"),
    ]
    for pid in service.pids():
        known = box.run("cat", f"/proc/{pid}/environ", f"/proc/{pid}/cmdline", check=False).stdout
        assert "canary" not in known
    assert "canary" not in "\n".join(service.log()) + service.show("StatusText")


def test_a_reload_takes_a_new_camera_and_leaves_the_others_alone(service: Service) -> None:
    pid, ups = service.main_pid, len(service.told("camera.up"))
    change_config(service, lambda text: text + '\n[[cameras]]\nname = "attic"\nurl = "rtsp://127.0.0.1:9/"\n')
    service.systemctl("reload")
    eventually(lambda: service.told("config.reloaded"), "the daemon says that it has reloaded")
    assert service.told("config.reloaded")[-1]["cameras_added"] == ["attic"]
    eventually(lambda: "cams 1/4" in service.show("StatusText"), "STATUS counts the new camera")
    assert (service.main_pid, service.restarts, len(service.told("camera.up"))) == (pid, 0, ups)


def test_a_reload_with_a_wrong_configuration_changes_nothing_and_says_so(service: Service) -> None:
    pid = service.main_pid
    with wrong_config(service, lambda text: text.replace("state_dir =", "drian_s = 5\nstate_dir =")):
        service.systemctl("reload")
        eventually(lambda: "drian_s: unknown key" in service.show("StatusText"), "STATUS says what is wrong")
        assert "drian_s: unknown key" in service.told("config.refused")[-1]["errors"][0]
    service.systemctl("reload")
    eventually(lambda: "refused" not in service.show("StatusText"), "STATUS says nothing more of it")
    assert service.main_pid == pid


def test_kill_9_loses_nothing_and_systemd_starts_it_again(service: Service) -> None:
    pid = service.main_pid
    eventually(lambda: len(service.accepted()) >= 5, "events are accepted")
    service.kill(signal.SIGKILL)
    eventually(lambda: service.restarts == 1 and service.is_running(), "it is restarted")
    assert service.main_pid != pid
    nothing_accepted_is_lost(service, service.accepted())


def test_a_wedged_event_loop_is_ended_by_the_watchdog_with_its_stacks_in_the_journal(service: Service) -> None:
    service.box.write("/etc/systemd/system/lva.service.d/soon.conf", "[Service]\nWatchdogSec=6\n")
    service.box.run("systemctl", "daemon-reload")
    service.systemctl("restart")
    pid, accepted = service.main_pid, service.accepted()
    with service.box.running("python3", "/source/tests/systemd/wedge.py", str(pid)):
        eventually(lambda: service.show("Result") == "watchdog" or service.main_pid != pid, "the watchdog barks")
    eventually(lambda: service.restarts == 1 and service.is_running(), "it is restarted")
    said = service.full_journal()
    assert "Watchdog timeout" in said
    assert "Fatal Python error: Aborted" in said
    nothing_accepted_is_lost(service, accepted)


def test_nothing_is_restarted_while_all_is_well(service: Service) -> None:
    """Three times as long as the watchdog would wait."""
    began, restarts = len(service.accepted()), service.restarts
    pid = service.main_pid
    eventually(lambda: len(service.accepted()) >= began + 6, "events go on", within_s=60)
    assert (service.main_pid, service.restarts) == (pid, restarts)
    service.box.file("/etc/systemd/system/lva.service.d/soon.conf").unlink()
    service.box.run("systemctl", "daemon-reload")


def test_make_install_over_a_running_service_goes_on_with_the_new_code_and_all_that_was_there(service: Service) -> None:
    box, pid = service.box, service.main_pid
    kept = {file: box.file(file).read_bytes() for file in (CONFIG, "/etc/lva/credentials/door_password")}
    before, code = set(service.events()), box.file("/usr/lib/lva/venv").readlink()
    said = box.run(*INSTALL, "install").stdout
    assert "systemctl status lva" in said
    assert service.is_running()
    assert service.main_pid != pid
    assert box.file("/usr/lib/lva/venv").readlink() != code
    assert [path.name for path in box.file("/usr/lib/lva").glob("venv.*")] == [
        str(box.file("/usr/lib/lva/venv").readlink())
    ]
    assert {file: box.file(file).read_bytes() for file in kept} == kept
    assert before <= set(service.events())


def test_the_operators_commands_leave_no_file_of_roots_in_the_state_folder(service: Service) -> None:
    assert service.box.run("lva", "validate").stdout.startswith(f"{CONFIG}: good")
    assert "embedded" in service.box.run("lva", "db", "status").stdout
    assert service.box.run("find", "/var/lib/lva", "!", "-user", "lva").stdout == ""


def test_stop_drains_and_leaves_no_process(service: Service) -> None:
    service.systemctl("stop")
    assert (service.show("Result"), service.show("ExecMainStatus"), service.pids()) == ("success", "0", [])
    assert service.told("daemon.stopped")[-1]["flushed"] is True


def test_state_of_a_newer_version_is_left_alone_and_the_journal_says_so(service: Service) -> None:
    """A newer one has another version, and other tables: no step leaves them as they were."""
    version = journal_version(service)
    journal_version(service, f"CREATE TABLE newer (x); PRAGMA user_version = {version + 97}")
    try:
        service.box.run("systemctl", "start", "--no-block", "lva.service")
        eventually(lambda: "newer lva" in service.full_journal(lines=20), "the log says what is wrong")
    finally:
        service.systemctl("stop")
        found = journal_version(service, f"DROP TABLE newer; PRAGMA user_version = {version}")
    assert found == version + 97


def test_a_wrong_configuration_is_named_in_the_journal_and_mended_without_a_start(service: Service) -> None:
    """systemd never gives up: there is no limit of starts."""
    complaint = f"{CONFIG}: state_dri: unknown key"
    with wrong_config(service, lambda text: text.replace("state_dir =", "state_dri =")):
        service.box.run("systemctl", "start", "--no-block", "lva.service")
        eventually(lambda: service.log().count(complaint) >= 3, "systemd goes on trying")
        assert "status=78/CONFIG" in service.full_journal()
        assert service.show("StartLimitIntervalUSec") == "0"
    eventually(service.is_running, "it runs once the file is right")
    nothing_accepted_is_lost(service, service.accepted())


def test_a_credential_that_is_missing_stops_the_start_and_a_new_one_is_taken(service: Service) -> None:
    password = service.box.file("/etc/lva/credentials/door_password")
    password.unlink()
    service.box.run("systemctl", "restart", "--no-block", "lva.service")
    eventually(lambda: "status=243/CREDENTIALS" in service.full_journal(lines=20), "the journal says why")
    password.write_text("canary-after-rotation")
    eventually(service.is_running, "it runs once the credential is there")
    assert "after-rotation" in service.box.run("cat", "/run/credentials/lva.service/door_password").stdout
    assert "canary" not in "\n".join(service.log())


def test_after_the_plug_was_pulled_it_is_back_by_itself_and_nothing_is_lost(service: Service) -> None:
    began = len(service.accepted())
    eventually(lambda: len(service.accepted()) >= began + 3, "events are accepted")
    accepted = service.accepted()
    service.box.pull_the_plug()
    service.box.boot()
    eventually(service.is_running, "it has been started by the boot")
    nothing_accepted_is_lost(service, accepted)


@pytest.mark.skipif(find_spec("torch") is None, reason="torch is not installed (MODELS=0)")
def test_the_model_server_answers_from_a_sandbox_that_shows_it_the_weights_and_nothing_recorded(box: Box) -> None:
    """Before its weights are there, too, and after a kill."""
    server = Service(box, "lva-model")
    box.write(
        "/etc/systemd/system/lva-model.service.d/test.conf", f"[Service]\nEnvironment=PYTHONPATH={MODELS_EXTRA}\n"
    )
    file = box.file("/etc/lva/lva-model.toml")
    file.write_text(file.read_text().replace('# precision = "int8"', 'precision = "int8"'))
    box.run("systemctl", "daemon-reload")
    box.run("systemctl", "start", "--no-block", "lva-model.service")
    eventually(lambda: "config.json: No such file" in "\n".join(server.log()), "the log says what is missing")
    put_weights(box)
    eventually(lambda: health(box) == 200, "it has found its weights")
    assert box.run("ls", f"/proc/{server.main_pid}/root/var/lib/lva").stdout.split() == ["models"]
    answer = json.loads(box.run(PYTHON, "-c", ASK).stdout)
    assert answer["answer"] in ("yes", "no")
    assert sum(answer["probabilities"].values()) == pytest.approx(1)
    server.kill(signal.SIGKILL)
    eventually(lambda: health(box) == 200 and server.restarts, "it is back")
    server.systemctl("stop")
    assert (server.show("Result"), server.pids()) == ("success", [])


def put_weights(box: Box) -> None:
    """Of a whole small model, as `lva models pull` would leave them."""
    for name, stored in (("config.json",) * 2, ("tokenizer.json",) * 2, ("model.safetensors", "weights.safetensors")):
        target = box.file(f"{MODEL_FOLDER}/{name}")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / "tests" / "data" / "moondream2" / stored, target)
    box.run("chmod", "-R", "a+rX", "/var/lib/lva/models")


def health(box: Box) -> int:
    """The HTTP status, 0 if nobody answers."""
    asking = (
        "import urllib.request, urllib.error\n"
        "try: print(urllib.request.urlopen('http://127.0.0.1:2021/health').status)\n"
        "except urllib.error.HTTPError as error: print(error.code)\n"
        "except OSError: print(0)\n"
    )
    return int(box.run(PYTHON, "-c", asking).stdout)


def test_uninstall_leaves_what_was_recorded_and_purge_does_not(service: Service) -> None:
    box = service.box
    said = box.run(*INSTALL, "uninstall").stdout
    assert "/var/lib/lva" in said
    assert not [
        path
        for path in (
            "/usr/lib/lva",
            "/usr/bin/lva",
            "/usr/lib/systemd/system/lva.service",
            "/usr/lib/systemd/system/lva-model.service",
        )
        if box.file(path).exists()
    ]
    assert service.pids() == []
    assert box.file(CONFIG).exists()
    assert box.file("/var/lib/lva/journal.db").exists()
    box.run(*INSTALL, "uninstall", "PURGE=1")
    assert not box.file("/etc/lva").exists()
    assert not box.file("/var/lib/lva").exists()
    assert box.run("id", "lva", check=False).returncode == 1
