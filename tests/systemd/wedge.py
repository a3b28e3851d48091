"""Stops the first thread of a process, and only that, until the input ends: `wedge.py PID`, in the box.

As a debugger does it. The other threads go on, as they do when an event loop is stuck in a call.
"""

import ctypes
import os
import sys

PTRACE_SEIZE, PTRACE_INTERRUPT = 0x4206, 0x4207


def trace(request: int, pid: int) -> None:
    if ctypes.CDLL(None, use_errno=True).ptrace(request, pid, None, None) == -1:
        raise OSError(ctypes.get_errno(), "ptrace")


pid = int(sys.argv[1])
trace(PTRACE_SEIZE, pid)
trace(PTRACE_INTERRUPT, pid)
os.waitpid(pid, 0)
print("stopped", flush=True)
sys.stdin.read()
