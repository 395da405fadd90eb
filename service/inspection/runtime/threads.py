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
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import TypeVar

BACKGROUND_NICENESS = 10
_POLL_S = 0.1

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


def run_apart(
    work: Callable[[], ResultT],
    *,
    timeout_s: float,
    stop: threading.Event,
    discard: Callable[[ResultT], None],
    in_background: bool = False,
) -> ResultT:
    """Run native code that may hang on a thread of its own, and wait for its result.

    If it is not waited for any longer, the thread continues. It does not keep the process from ending.

    Args:
        work: The function to run. Threads that it starts and leaves running, such as those of a graph session, inherit
            the priority.
        timeout_s: Longest wait in seconds.
        stop: Ends the wait.
        discard: Releases the result if it is not waited for any longer.
        in_background: Run the thread at low priority.

    Raises:
        TimeoutError: The function did not return in time.
        InterruptedError: `stop` was set.
    """
    future: Future[ResultT] = Future()

    def run() -> None:
        if in_background:
            lower_thread_priority()
        try:
            result = work()
        except BaseException as error:  # noqa: BLE001 - raised in the thread that waits
            future.set_exception(error)
        else:
            future.set_result(result)

    threading.Thread(target=run, name="apart", daemon=True).start()
    deadline = time.monotonic() + timeout_s
    while not (future.done() or stop.is_set() or time.monotonic() > deadline):
        wait([future], _POLL_S)
    if future.done():
        return future.result()
    future.add_done_callback(lambda done: None if done.exception() else discard(done.result()))
    if stop.is_set():
        raise InterruptedError
    raise TimeoutError


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
