"""Return freed memory to the operating system."""

from __future__ import annotations

import ctypes
import sys


def return_freed_memory() -> None:
    """Ask the C library to return the memory that it keeps after a bundle was unloaded.

    Otherwise glibc keeps about the size of a graph, in fragments that the next graph does not fit into; after ten
    swaps the process would be a third larger. Does nothing with C libraries other than glibc.
    """
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
