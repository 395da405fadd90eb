"""A session whose graph runs in a replica of the deployment `Inspector`.

A run is sent again if the replica that had it is lost: a graph returns the same result for the same batch, so nothing
is done twice.
"""

from __future__ import annotations

import math
import time
from functools import partial
from typing import Any, TypeVar

import structlog
from ray.exceptions import RayActorError, RayTaskError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, ReplicaUnavailableError
from ray.serve.handle import DeploymentHandle

from service.bundle.arrays import UInt8Image
from service.bundle.bundle import Bundle
from service.errors import DeadlineExceeded, PlumblineError
from service.inspection.runtime.engine import Engine
from service.inspection.runtime.session import GraphOutput, Session, SessionOptions
from service.ray_serve.graph_id import GraphId
from service.ray_serve.graphs import GraphFacts
from service.settings import Settings

log = structlog.get_logger(__name__)
RETRY_AFTER_S = 1.0
_PAUSE_S = 0.1
_LOST = (RayActorError, BackPressureError, DeploymentUnavailableError, ReplicaUnavailableError)
"""A replica is lost, stopping, or none can be reached at the moment."""
ResultT = TypeVar("ResultT")


class RemoteSession(Session):
    """Runs a graph in a replica of the deployment `Inspector`.

    Args:
        inspector: Handle of the deployment.
        bundle: The verified bundle of the graph.
        options: Options for sessions in this process, for what is not run there.
        open_timeout_s: Longest time to load the graph there, in seconds.
        run_timeout_s: Longest time for a run, the wait for a free replica included, in seconds.

    Raises:
        PlumblineError: The replica cannot load the graph; the error is the one it reports.
        DeadlineExceeded: No replica loaded it in time.
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
        self._timeout_s = run_timeout_s
        self._run = inspector.options(method_name="run", multiplexed_model_id=graph)
        facts: GraphFacts = _call(
            inspector.options(method_name="describe", multiplexed_model_id=graph), timeout_s=open_timeout_s
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
            PlumblineError: The replica had to load the graph again, and could not.
        """
        del keeps_memory
        output: GraphOutput = _call(self._run, images, timeout_s=self._timeout_s)
        return output

    def close(self) -> None:
        """Do nothing. Replicas close the graphs that were used least recently."""


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
        open_timeout_s=settings.self_test_timeout_s,
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
        response = method.remote(*arguments)
        try:
            return response.result(timeout_s=remaining_s)
        except TimeoutError:
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
    raise DeadlineExceeded(timeout_s, math.ceil(RETRY_AFTER_S))
