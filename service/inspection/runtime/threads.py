"""Number and priority of threads.

ONNX Runtime and OpenCV use the number of the host's cores and ignore a container's CPU quota, so too many threads
compete for the quota. Here the quota is read, and passed to them explicitly.
"""

from __future__ import annotations

import contextlib
import math
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

BACKGROUND_NICENESS = 10

ResultT = TypeVar("ResultT")


def cpu_quota(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Return the number of CPU cores that this process may use, at least 1.

    It is the smaller of the process's affinity and its cgroup's quota.

    Args:
        cgroup: Mount point of the cgroup file system. Versions 2 and 1 are supported; without one there is no quota.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota_v2(cgroup) or _quota_v1(cgroup)
    # Round up: with a quota of 1.5 cores, one thread would leave a third of it unused.
    return max(1, cores if quota is None else min(cores, math.ceil(quota)))


def _quota_v2(cgroup: Path) -> float | None:
    try:
        quota, period = (cgroup / "cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        return None


def _quota_v1(cgroup: Path) -> float | None:
    try:
        quota = int((cgroup / "cpu/cpu.cfs_quota_us").read_text())
        period = int((cgroup / "cpu/cpu.cfs_period_us").read_text())
        return quota / period if quota > 0 else None
    except (OSError, ValueError):
        return None


def run_in_background(work: Callable[[], ResultT]) -> ResultT:
    """Run a function on a thread of low priority and wait for its result.

    Threads that the function starts and leaves running, such as those of a graph session, inherit the priority.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="background", initializer=lower_thread_priority) as pool:
        return pool.submit(work).result()


def lower_thread_priority() -> None:
    """Lower the scheduling priority of the calling thread (Linux only)."""
    # On Linux niceness applies to a thread; elsewhere it would slow down the whole process.
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            thread = threading.get_native_id()
            os.setpriority(os.PRIO_PROCESS, thread, max(BACKGROUND_NICENESS, os.getpriority(os.PRIO_PROCESS, thread)))
