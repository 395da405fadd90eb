"""Memory of what was unloaded, back to the system."""

from __future__ import annotations

import ctypes
import sys


def return_freed_memory() -> None:
    """Have the C library give back what it keeps for later.

    After a bundle was exchanged it keeps a whole graph's worth, in pieces that the next one does not quite fit into;
    after ten exchanges a process would be a third larger. Does nothing where the C library is another one than glibc.
    """
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
