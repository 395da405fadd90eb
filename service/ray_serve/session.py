"""A session whose graph runs in a replica of the deployment `Inspector`.

A run is sent again if the replica that had it is lost: a graph returns the same result for the same batch, so nothing
is done twice.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from functools import partial
from typing import Any, TypeVar

import structlog
from ray.exceptions import (
    NodeDiedError,
    ObjectLostError,
    RayActorError,
    RayError,
    RayTaskError,
    WorkerCrashedError,
)
from ray.serve.exceptions import (
    BackPressureError,
    DeploymentUnavailableError,
    RayServeException,
    ReplicaUnavailableError,
)
from ray.serve.handle import DeploymentHandle

from service.bundle.arrays import UInt8Image
from service.bundle.bundle import Bundle
from service.deployment.errors import ProductNotReady
from service.errors import DeadlineExceeded, PlumblineError
from service.inspection.runtime.engine import Engine
from service.inspection.runtime.session import GraphOutput, Session, SessionOptions
from service.ray_serve.graph_id import GraphId
from service.ray_serve.graphs import GraphFacts
from service.settings import Settings

log = structlog.get_logger(__name__)
RETRY_AFTER_S = 1.0
_PAUSE_S = 0.1
_LOST = (
    RayActorError,
    NodeDiedError,
    WorkerCrashedError,
    ObjectLostError,
    BackPressureError,
    DeploymentUnavailableError,
    ReplicaUnavailableError,
)
"""A replica or its result is lost, it is stopping, or none can be reached at the moment."""
_OPENING_SHARE = 0.9
"""Share of the time limit of `BundleLoader` after which a session is not opened any more. If that limit passed first,
slow replicas would count as a failed self-test."""
ResultT = TypeVar("ResultT")


class RemoteSession(Session):
    """Runs a graph in a replica of the deployment `Inspector`.

    A session is open after `warm_up`. Until then, whatever prevents a result without being a property of the bundle is
    a `ProductNotReady` with `retry_after`, so that no other bundle is put in force.

    Args:
        inspector: Handle of the deployment.
        bundle: The verified bundle of the graph.
        options: Options for sessions in this process, for what is not run there.
        open_timeout_s: Longest time from now on in which the session is opened, in seconds: the graph is loaded there,
            the golden samples and the warm-up run.
        run_timeout_s: Longest time for a later run, the wait for a free replica included, in seconds.

    Raises:
        PlumblineError: The replica cannot load the graph; the error is the one it reports.
        ProductNotReady: No replica loaded it in time, or loading it failed unexpectedly.
    """

    def __init__(
        self,
        inspector: DeploymentHandle[Any],
        bundle: Bundle,
        options: SessionOptions,
        open_timeout_s: float,
        run_timeout_s: float,
    ) -> None:
        graph = str(GraphId.of(bundle))
        geometry = bundle.manifest.input
        self.options = options
        self.image_shape = (geometry.height, geometry.width, 3)
        self._product = bundle.manifest.product
        self._run_timeout_s = run_timeout_s
        self._open_timeout_s = open_timeout_s
        self._open_until: float | None = time.monotonic() + open_timeout_s
        self._run = inspector.options(method_name="run", multiplexed_model_id=graph)
        facts: GraphFacts = self._call_opening(
            inspector.options(method_name="describe", multiplexed_model_id=graph), self._open_until
        )
        self.provider = facts.provider

    @property
    def may_run_concurrently(self) -> bool:
        """Return True: the runs are distributed to the replicas."""
        return True

    def run(self, images: UInt8Image, *, keeps_memory: bool = True) -> GraphOutput:
        """Run a batch as it is: the replica neither divides it nor adds images of other requests.

        Args:
            images: uint8 [N, H, W, 3], RGB, of the graph's input size.
            keeps_memory: Has no effect: the memory is the replica's.

        Raises:
            DeadlineExceeded: No replica returned a result in time.
            ProductNotReady: As above, or the run failed unexpectedly, while the session is opened.
            PlumblineError: The replica had to load the graph again, and could not.
        """
        del keeps_memory
        output: GraphOutput
        if self._open_until is not None:
            output = self._call_opening(self._run, self._open_until, images)
        else:
            output = _call(self._run, images, timeout_s=self._run_timeout_s)
        return output

    def warm_up(self, batch_sizes: Sequence[int] = (1,)) -> None:
        """Run blank images. It is the last step of opening: later runs have the time limit of an inspection."""
        super().warm_up(batch_sizes)
        self._open_until = None

    def close(self) -> None:
        """Do nothing. Replicas close the graphs that were used least recently."""

    def _call_opening(self, method: DeploymentHandle[Any], until: float, *arguments: Any) -> Any:
        """Call a method while the session is opened.

        Raises:
            ProductNotReady: There was no result in time, or the call failed unexpectedly.
            PlumblineError: What the replica raised.
        """
        try:
            return _call(method, *arguments, timeout_s=until - time.monotonic())
        except DeadlineExceeded as error:
            reason = f"no replica of Inspector opened its graph within {self._open_timeout_s:g} s."
            raise ProductNotReady(self._product, reason) from error
        except (RayError, RayServeException) as error:
            log.error("opening a graph failed unexpectedly", product=self._product, exc_info=error)
            reason = f"its graph could not be opened in a replica of Inspector ({type(error).__name__}); see the log."
            raise ProductNotReady(self._product, reason) from error


def ray_engine(inspector: DeploymentHandle[Any], settings: Settings, runs: int) -> Engine:
    """Return the engine that runs graphs in the replicas of the deployment `Inspector`.

    Args:
        inspector: Handle of the deployment.
        settings: Limits on time.
        runs: Runs of one graph that may be in progress at the same time.
    """
    open_remote = partial(
        RemoteSession,
        inspector,
        open_timeout_s=_OPENING_SHARE * settings.self_test_timeout_s,
        run_timeout_s=settings.queue_deadline_s,
    )
    return Engine(open_remote, runs)


def _call(method: DeploymentHandle[Any], *arguments: Any, timeout_s: float) -> Any:
    """Call a method of a replica and wait for its result, on a thread without an event loop.

    Raises:
        PlumblineError: What the replica raised.
        DeadlineExceeded: There was no result in time.
    """
    give_up = time.monotonic() + timeout_s
    while (remaining_s := give_up - time.monotonic()) > 0:
        response = None
        try:
            response = method.remote(*arguments)
            return response.result(timeout_s=remaining_s)
        except TimeoutError:
            if response is not None:
                response.cancel()  # type: ignore[no-untyped-call]
            break
        except RayTaskError as error:
            cause = error.cause
            if isinstance(cause, _LOST):
                time.sleep(min(_PAUSE_S, remaining_s))
                continue
            raise (cause if isinstance(cause, PlumblineError) else error) from None
        except _LOST as error:
            log.warning("replica of Inspector lost, the run is repeated", reason=type(error).__name__)
            time.sleep(min(_PAUSE_S, remaining_s))
    raise DeadlineExceeded(max(0.0, timeout_s), math.ceil(RETRY_AFTER_S))
