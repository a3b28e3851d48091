"""Child processes that do not outlive who started them."""

import ctypes
import os
import signal

PR_SET_PDEATHSIG = 1


def die_with_the_parent(parent_pid: int) -> None:
    """SIGKILL for this process when its parent dies, even while stuck in C."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:
        os._exit(0)
