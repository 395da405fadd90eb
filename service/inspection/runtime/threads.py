"""How many threads this process may use.

ONNX Runtime and OpenCV count the host's cores and ignore a container's CPU quota, which makes a throttled process
slower than a modest one. So the quota is read here and passed on explicitly.
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

AnswerT = TypeVar("AnswerT")


def cpu_quota(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """CPU cores this process may keep busy: the smaller of its affinity and its cgroup's quota, at least 1.

    Args:
        cgroup: Mount point of the cgroup file system; v2 and v1 are understood, none means no quota.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota_v2(cgroup) or _quota_v1(cgroup)
    # 1.5 cores are worth two threads: rounding down would leave a third of the quota unused.
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


def run_in_background(work: Callable[[], AnswerT]) -> AnswerT:
    """Do something on a thread that gives way to all others, and wait for it. Threads that the work starts and leaves
    behind, such as those of a graph's session, inherit that.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="background", initializer=lower_thread_priority) as pool:
        return pool.submit(work).result()


def lower_thread_priority() -> None:
    """Let every other thread have the processor before this one, from now on."""
    # Linux counts niceness by thread; elsewhere this would slow the whole process down.
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            thread = threading.get_native_id()
            os.setpriority(os.PRIO_PROCESS, thread, max(BACKGROUND_NICENESS, os.getpriority(os.PRIO_PROCESS, thread)))
