"""Processes that end together with their parent.

On Linux the kernel sends a signal to a process whose parent ended, however it ended. Other systems have no such signal:
there, a parent that is killed leaves its children running.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable

_PR_SET_PDEATHSIG = 1


def end_with_parent(parent: int | None = None) -> None:
    """Make this process receive SIGTERM when its parent ends. Does nothing on other systems than Linux.

    Args:
        parent: Process id of the parent, if it is known. If it ended already, this process is terminated at once.
    """
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if parent is not None and os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGTERM)


def child_setup() -> Callable[[], None] | None:
    """Return the `preexec_fn` of a child that ends with this process; None on other systems than Linux."""
    if sys.platform != "linux":
        return None
    parent = os.getpid()
    return lambda: end_with_parent(parent)


def interrupt_on_termination() -> None:
    """Handle SIGTERM and SIGHUP like Ctrl-C, so that context managers end and stop what they started."""
    for name in ("SIGTERM", "SIGHUP"):
        if (number := getattr(signal, name, None)) is not None:
            signal.signal(number, signal.default_int_handler)
