import os
import sys
import threading
from pathlib import Path

import pytest

from service.inspection.runtime.threads import BACKGROUND_NICENESS, cpu_quota, run_in_background


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 8),
        ({"cpu.max": "max 100000"}, 8),
        ({"cpu.max": "200000 100000"}, 2),
        ({"cpu.max": "150000 100000"}, 2),
        ({"cpu.max": "20000 100000"}, 1),
        ({"cpu.max": "6400000 100000"}, 8),
        ({"cpu/cpu.cfs_quota_us": "300000", "cpu/cpu.cfs_period_us": "100000"}, 3),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 8),
        ({"cpu.max": "not a number"}, 8),
    ],
)
def test_threads_follow_the_cgroup_quota(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], expected: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(8)), raising=False)
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text + "\n")

    assert cpu_quota(tmp_path) == expected


def niceness() -> int:
    """Return the niceness of the calling thread."""
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux counts niceness by thread")
def test_only_background_work_and_its_threads_have_low_priority() -> None:
    before = niceness()
    found = []

    def work() -> int:
        child = threading.Thread(target=lambda: found.append(niceness()))
        child.start()
        child.join()
        return niceness()

    assert run_in_background(work) == max(before, BACKGROUND_NICENESS)
    assert found == [max(before, BACKGROUND_NICENESS)], "threads that outlive the function keep the priority"
    assert niceness() == before


def test_exception_of_background_work_is_raised_in_the_caller() -> None:
    with pytest.raises(ZeroDivisionError):
        run_in_background(lambda: 1 // 0)
