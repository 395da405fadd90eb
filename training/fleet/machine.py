"""Cores and memory of the machine, and how many processes they suffice for."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

CGROUP_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
SHARE = 0.8  # of the memory; the rest is for the system, its file cache and other programs
MIN_PROCESS_BYTES = 3 * 2**30  # the default method on 104 images needs 2.3 GiB (docs/how-to/fleet.md)


def machine_memory(limits: tuple[Path, ...] = CGROUP_LIMITS) -> int:
    """Return the memory that the processes of this machine or container may use together, bytes.

    Args:
        limits: Files with the limit of the container, in bytes; missing ones, and those without a number, are ignored.
    """
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in limits:
        with contextlib.suppress(OSError, ValueError):
            found.append(int(path.read_text()))
    return min(found)


def default_processes(cores: int, threads: int, memory: int, bound: int | None = None) -> int:
    """Return how many processes train side by side, at least 1.

    Args:
        cores: Cores of the machine.
        threads: Threads of each process.
        memory: Memory of the machine, bytes.
        bound: Memory of each process, bytes. None: at least `MIN_PROCESS_BYTES`.
    """
    return max(1, min(cores // threads, int(SHARE * memory) // (bound or MIN_PROCESS_BYTES)))


def default_bound(processes: int, memory: int) -> int:
    """Return the memory that each of the processes may use, bytes: an equal part of the machine's."""
    return int(SHARE * memory) // processes


def resident_memory(pid: int) -> int | None:
    """Return the resident memory of a process, bytes; None if it has ended or the system does not report it."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError, ValueError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")
