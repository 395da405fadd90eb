"""Return freed memory to the operating system."""

from __future__ import annotations

import ctypes
import sys


def return_freed_memory() -> None:
    """Ask the C library to return the memory that it keeps after a bundle was loaded or unloaded.

    To load a bundle takes two to three times the size of its graph for a moment, and glibc keeps most of it in the
    arena of the thread that loaded it. After a bundle was unloaded, it keeps about the size of a graph, in fragments
    that the next graph does not fit into. A call takes some milliseconds. Does nothing with C libraries other than
    glibc.
    """
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
