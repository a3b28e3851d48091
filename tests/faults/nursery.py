"""Where boxes come from: a process that has imported everything once, and forks a box in milliseconds.

So a thousand of them can be killed in minutes. The forks have no loop, thread or connection of their parent: it has
none.
"""

import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Never

from tests.faults import box

ROOT = Path(__file__).parents[2]
_PR_SET_PDEATHSIG = 1
_MESSAGE_BYTES = 65536


class Nursery:
    """The test's end of it. One request at a time."""

    def __init__(self, line: socket.socket) -> None:
        self._line = line

    def start(self, settings: box.BoxSettings, said: Path, log: Path) -> int:
        """The process id of a new box; what it says on its two outputs is appended to these files."""
        return int(self._ask({"start": settings.as_json(), "said": str(said), "log": str(log)}))

    def status(self, pid: int) -> int:
        """How it ended, negative for the signal that killed it. Waits for the end."""
        return int(self._ask({"wait": pid}))

    def _ask(self, request: dict[str, Any]) -> str:
        self._line.send(json.dumps(request).encode())
        return self._line.recv(_MESSAGE_BYTES).decode()


@contextmanager
def a_nursery() -> Iterator[Nursery]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        command = [sys.executable, "-m", "tests.faults.nursery", str(theirs.fileno())]
        with subprocess.Popen(command, cwd=ROOT, pass_fds=[theirs.fileno()]) as process:
            theirs.close()
            yield Nursery(ours)
            ours.close()  # which ends it, and its end kills what is left
            process.wait()


def _serve(line: socket.socket) -> None:
    while message := line.recv(_MESSAGE_BYTES):
        request = json.loads(message)
        if "wait" in request:
            _, status = os.waitpid(request["wait"], 0)
            answer = os.waitstatus_to_exitcode(status)
        elif (answer := os.fork()) == 0:
            line.close()
            _be_a_box(request)
        line.send(str(answer).encode())


def _be_a_box(request: dict[str, Any]) -> Never:
    status = 70
    try:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        for file, descriptor in ((request["said"], 1), (request["log"], 2)):
            os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), descriptor)
        status = box.main(box.BoxSettings.from_json(request["start"]))
    except BaseException:  # noqa: BLE001 - this is where a process ends
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])))
