"""The engine for Ray: outcomes of tasks, lost machines and interruptions, against a stand-in for the package.

The last test starts a real cluster on this machine.
"""

import importlib
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from tests.training.fleet.fake_jobs import FakeJob, run_fake
from training.errors import RayUnavailable
from training.fleet.cluster import RayCluster
from training.fleet.results import Result
from training.interruption import Interruption


class RayError(Exception):
    pass


class RayTaskError(RayError):
    def __init__(self, cause: BaseException) -> None:
        self.cause = cause


class TaskCancelledError(RayError):
    pass


class FakeRay(ModuleType):
    """The part of Ray's interface that the engine uses. A task runs when it is waited for, in this process."""

    def __init__(self) -> None:
        super().__init__("ray")
        self.exceptions = SimpleNamespace(
            RayError=RayError, RayTaskError=RayTaskError, TaskCancelledError=TaskCancelledError
        )
        self.options: dict[str, Any] = {}
        self.cancelled: set[Any] = set()

    def init(self, **options: Any) -> None:
        self.options |= options

    def remote(self, **options: Any) -> Callable[[Callable[..., Any]], Any]:
        self.options |= options
        return lambda function: SimpleNamespace(remote=lambda *given: _Task(function, given))

    def wait(self, tasks: list[Any], timeout: float) -> tuple[list[Any], list[Any]]:
        assert timeout > 0
        return tasks[:1], tasks[1:]

    def get(self, task: "_Task") -> Any:
        if task in self.cancelled:
            raise TaskCancelledError
        return task.run()

    def cancel(self, task: Any) -> None:
        self.cancelled.add(task)


class _Task:
    def __init__(self, function: Callable[..., Any], given: tuple[Any, ...]) -> None:
        self.function, self.given = function, given

    def run(self) -> Any:
        product = self.given[1].product
        if product == "lost":
            raise RayError("The node\n died.")
        if product == "broken":
            raise RayTaskError(OSError("disk full"))
        return self.function(*self.given)


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> FakeRay:
    fake = FakeRay()
    monkeypatch.setitem(sys.modules, "ray", fake)
    return fake


def test_tasks_reserve_their_cores_and_memory_and_a_lost_one_fails_alone(ray: FakeRay, tmp_path: Path) -> None:
    engine = RayCluster("auto", 2, 2**30, run_fake, gpus=0.5)
    assert (ray.options["num_cpus"], ray.options["memory"], ray.options["num_gpus"]) == (2, 2**30, 0.5)
    shown: list[str] = []
    jobs: list[Any] = [FakeJob(name, tmp_path) for name in ("fine-0", "lost", "broken", "fine-1")]
    ended = {
        job.product: outcome for job, outcome in engine.run(jobs, lambda _, text: shown.append(text), Interruption())
    }
    assert (ended["fine-0"], ended["fine-1"]) == ("fine-0 done", "fine-1 done")
    assert isinstance(ended["lost"], Result)
    assert ended["lost"].error == "Its task was lost: The node died."
    assert isinstance(ended["broken"], Result)
    assert "disk full" in str(ended["broken"].error)
    assert shown[0] == "4 tasks"
    assert shown[-1] == ""


def test_a_signal_cancels_the_tasks(ray: FakeRay, tmp_path: Path) -> None:
    stop = Interruption()
    jobs: list[Any] = [FakeJob(f"fine-{number}", tmp_path) for number in range(3)]
    outcomes = []
    for _, outcome in RayCluster("auto", 1, 2**30, run_fake).run(jobs, lambda *_: None, stop):
        outcomes.append(outcome)
        if stop.signal is None:
            stop.on_signal(signal.SIGINT, None)
    assert outcomes == ["fine-0 done", "interrupted", "interrupted"]


def test_missing_package_and_unreachable_cluster_are_reported(monkeypatch: pytest.MonkeyPatch, ray: FakeRay) -> None:
    with pytest.raises(RayUnavailable, match="expected auto"):
        RayCluster("cluster", 1, 2**30, run_fake)
    with pytest.raises(RayUnavailable, match=r"no connection to 127\.0\.0\.1:1"):
        RayCluster("127.0.0.1:1", 1, 2**30, run_fake)  # nothing listens at port 1
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(RayUnavailable, match="extra `ray`"):
        RayCluster("auto", 1, 2**30, run_fake)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_a_real_cluster_does_the_jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_worker_niceness", "0")  # by default, processes of all tests beside it have priority
    engine = RayCluster("local", 1, 2**28, run_fake)
    try:
        jobs: list[Any] = [FakeJob(name, tmp_path) for name in ("fine-0", "exits", "fine-1")]
        ended = {job.product: outcome for job, outcome in engine.run(jobs, lambda *_: None, Interruption())}
    finally:
        importlib.import_module("ray").shutdown()
    assert (ended["fine-0"], ended["fine-1"]) == ("fine-0 done", "fine-1 done")
    assert isinstance(ended["exits"], Result)
    assert "lost" in str(ended["exits"].error)
