"""Runs in other processes: what is repeated, what is reported. The handles stand for those of Ray."""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ray.exceptions import (
    ActorDiedError,
    NodeDiedError,
    ObjectLostError,
    OwnerDiedError,
    RaySystemError,
    RayTaskError,
    WorkerCrashedError,
)
from ray.serve._private.common import DeploymentID
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

from service.bundle.bundle import Bundle
from service.bundle.errors import BundleIntegrity, ParityFailure
from service.deployment.errors import ProductNotReady
from service.errors import DeadlineExceeded, PlumblineError, QueueFull
from service.inspection.inspector import Inspector, InspectorOptions
from service.inspection.runtime.batching import BatchingOptions
from service.inspection.runtime.session import GraphSession, SessionOptions
from service.ray_serve.graphs import GraphFacts
from service.ray_serve.session import RemoteSession, ray_engine
from service.settings import Settings
from tests.bundles import part

CPU = SessionOptions(provider="cpu", threads=1)


class Handle:
    """A handle of Ray whose methods run functions in this process. It records the options of its calls."""

    def __init__(self, functions: dict[str, Callable[..., Any]], chosen: dict[str, str] | None = None) -> None:
        self.functions, self.chosen = functions, chosen or {}
        self.calls: list[dict[str, str]] = []
        self.unreachable: list[Exception] = []
        """What sending a call raises."""

    def options(self, **chosen: str) -> Handle:
        handle = Handle(self.functions, chosen)
        handle.calls, handle.unreachable = self.calls, self.unreachable
        return handle

    def remote(self, *arguments: Any) -> Response:
        self.calls.append(self.chosen)
        if self.unreachable:
            raise self.unreachable.pop()
        return Response(lambda: self.functions[self.chosen["method_name"]](*arguments))


class TimedHandle(Handle):
    """A handle that records how long each of its calls is waited for."""

    def __init__(self, functions: dict[str, Callable[..., Any]], limits: list[float], **chosen: str) -> None:
        super().__init__(functions, chosen)
        self.limits = limits

    def options(self, **chosen: str) -> TimedHandle:
        return TimedHandle(self.functions, self.limits, **chosen)

    def remote(self, *arguments: Any) -> Response:
        response = super().remote(*arguments)
        response.limits = self.limits
        return response


class Response:
    def __init__(self, function: Callable[[], Any]) -> None:
        self._function = function
        self.is_cancelled = False
        self.limits: list[float] = []

    def result(self, timeout_s: float) -> Any:
        assert timeout_s > 0
        self.limits.append(timeout_s)
        return self._function()

    def cancel(self) -> None:
        self.is_cancelled = True


def session_of(bundle: Bundle, run: Callable[..., Any], describe: Callable[[], Any] | None = None) -> RemoteSession:
    session = opening(bundle, run, describe)
    session.warm_up(())  # it is open now
    return session


def opening(
    bundle: Bundle, run: Callable[..., Any], describe: Callable[[], Any] | None = None, open_timeout_s: float = 5
) -> RemoteSession:
    handle: Any = Handle({"run": run, "describe": describe or (lambda: GraphFacts("cpu", 0.0))})
    return RemoteSession(handle, bundle, CPU, open_timeout_s, run_timeout_s=0.5)


def made(kind: Any, message: str) -> Exception:
    """Return an error of Ray, whose constructor has no annotations."""
    error: Exception = kind(message)
    return error


def raised_there(error: Exception) -> Exception:
    """Return what a handle raises for an error of the replica, after its way through pickle."""
    make: Any = RayTaskError  # it has no annotations
    failed = make("run", f"Traceback: {error}", pickle.loads(pickle.dumps(error)))  # noqa: S301
    exception: Exception = failed.as_instanceof_cause()
    return exception


def test_an_inspector_works_as_with_a_session_in_this_process(tiny_bundle: Bundle) -> None:
    graph = GraphSession(tiny_bundle.read_model(), CPU)
    handle: Any = Handle({"run": graph.run, "describe": lambda: GraphFacts("cpu", 0.0)})
    engine = ray_engine(handle, Settings(), runs=3)
    options = InspectorOptions(CPU, BatchingOptions(concurrency=engine.concurrency), engine=engine)
    here = Inspector.open(tiny_bundle, InspectorOptions(CPU, BatchingOptions(concurrency=1)))
    there = Inspector.open(tiny_bundle, options)
    try:
        assert there.self_test_result == here.self_test_result
        assert there.batcher.concurrency == 3
        image = here.read(_png())
        for copies in (1, 3):
            first, second = here.run_copies(image, copies), there.run_copies(image, copies)
            assert np.array_equal(first.anomaly_map, second.anomaly_map)
        assert {call["multiplexed_model_id"] for call in handle.calls} == {f"widget@{tiny_bundle.digest}"}
    finally:
        here.close()
        there.close()


def test_a_golden_sample_that_differs_there_refuses_the_bundle(tiny_bundle: Bundle) -> None:
    graph = GraphSession(tiny_bundle.read_model(), CPU)

    def wrong(images: np.ndarray) -> Any:
        output = graph.run(images)
        output.maps[:] += 0.1
        return output

    handle: Any = Handle({"run": wrong, "describe": lambda: GraphFacts("cpu", 0.0)})
    with pytest.raises(ParityFailure):
        Inspector.open(tiny_bundle, InspectorOptions(CPU, engine=ray_engine(handle, Settings(), runs=1)))


@pytest.mark.parametrize(
    "errors",
    [
        [ActorDiedError(), raised_there(ActorDiedError()), BackPressureError(1, 1)],
        [made(NodeDiedError, "gone"), WorkerCrashedError()],
        [ObjectLostError("aa", None, ""), OwnerDiedError("aa", None, "")],
    ],
)
def test_a_run_is_repeated_if_its_replica_is_lost(tiny_bundle: Bundle, errors: list[Exception]) -> None:
    graph, failures = GraphSession(tiny_bundle.read_model(), CPU), list(errors)

    def run(images: np.ndarray) -> Any:
        if failures:
            raise failures.pop()
        return graph.run(images)

    assert session_of(tiny_bundle, run).run(part()[None]).maps.shape == (1, 16, 16)
    assert failures == []


def test_a_run_that_cannot_be_sent_is_sent_again(tiny_bundle: Bundle) -> None:
    graph = GraphSession(tiny_bundle.read_model(), CPU)
    handle: Any = Handle({"run": graph.run, "describe": lambda: GraphFacts("cpu", 0.0)})
    session = RemoteSession(handle, tiny_bundle, CPU, open_timeout_s=5, run_timeout_s=0.5)
    handle.unreachable.append(DeploymentUnavailableError(DeploymentID("Inspector")))
    assert session.run(part()[None]).maps.shape == (1, 16, 16)
    assert len(handle.calls) == 3


@pytest.mark.parametrize("error", [TimeoutError(), RuntimeError("out of memory"), made(RaySystemError, "no plasma")])
def test_what_is_no_property_of_a_bundle_does_not_refuse_it(tiny_bundle: Bundle, error: Exception) -> None:
    def fail(*_: object) -> Any:
        raise raised_there(error) if isinstance(error, RuntimeError) else error

    with pytest.raises(ProductNotReady) as raised:
        opening(tiny_bundle, fail, fail)
    assert raised.value.retry_after_s is not None
    session = opening(tiny_bundle, fail)
    with pytest.raises(ProductNotReady, match="replica of Inspector"):
        session.self_test(tiny_bundle.golden)
    with pytest.raises(ProductNotReady):
        session.warm_up()


def test_opening_has_a_time_limit_of_its_own(tiny_bundle: Bundle) -> None:
    limits: list[float] = []
    graph = GraphSession(tiny_bundle.read_model(), CPU)
    handle: Any = TimedHandle({"run": graph.run, "describe": lambda: GraphFacts("cpu", 0.0)}, limits)
    session = RemoteSession(handle, tiny_bundle, CPU, open_timeout_s=5, run_timeout_s=0.5)
    session.warm_up()
    session.run(part()[None])
    described, warmed, run = limits
    assert 0.5 < warmed <= described <= 5
    assert run <= 0.5


def test_a_run_without_a_replica_ends_at_the_deadline(tiny_bundle: Bundle) -> None:
    def run(_images: np.ndarray) -> Any:
        raise ActorDiedError()

    started = time.monotonic()
    with pytest.raises(DeadlineExceeded, match=r"0\.5 s"):
        session_of(tiny_bundle, run).run(part()[None])
    assert 0.4 < time.monotonic() - started < 5


def test_a_run_that_takes_too_long_is_cancelled(tiny_bundle: Bundle) -> None:
    def run(_images: np.ndarray) -> Any:
        raise TimeoutError

    with pytest.raises(DeadlineExceeded) as error:
        session_of(tiny_bundle, run).run(part()[None])
    assert error.value.retry_after_s == 1


def test_the_error_of_a_replica_is_reported_as_it_is(tiny_bundle: Bundle) -> None:
    def describe() -> Any:
        raise raised_there(BundleIntegrity(Path("/models/widget/abc"), "model.onnx has another hash."))

    with pytest.raises(BundleIntegrity, match="another hash") as error:
        session_of(tiny_bundle, lambda _: None, describe)
    assert error.value.status == 422
    assert error.value.extensions == {"bundle": "abc"}


def test_an_unexpected_error_of_a_replica_is_not_repeated(tiny_bundle: Bundle) -> None:
    calls: list[int] = []

    def run(_images: np.ndarray) -> Any:
        calls.append(1)
        raise raised_there(RuntimeError("the graph returned 2 maps for 1 images"))

    with pytest.raises(RuntimeError, match="2 maps"):
        session_of(tiny_bundle, run).run(part()[None])
    assert calls == [1]


@pytest.mark.parametrize("error", [QueueFull(3, 1.5), BundleIntegrity(Path("a"), "b"), PlumblineError("c", d=1)])
def test_errors_keep_their_content_between_processes(error: PlumblineError) -> None:
    restored = pickle.loads(pickle.dumps(error))  # noqa: S301
    assert type(restored) is type(error)
    assert (str(restored), restored.detail, restored.extensions) == (str(error), error.detail, error.extensions)


def _png() -> bytes:
    from tests.running_service import BAD

    return BAD
