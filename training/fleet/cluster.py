"""Jobs on a Ray cluster. The folders of images, results and models must be the same on all of its machines."""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from training.errors import RayUnavailable
from training.fleet.engine import Function, Watch
from training.interruption import Interruption

if TYPE_CHECKING:
    from training.fleet.job import Job, Outcome

POLL_S = 1.0
CONNECT_S = 10.0
RETRIES = 3  # after the loss of a machine or of its process; the work continues from the checkpoint


class RayCluster:
    """An engine that does each job as a task of Ray.

    Args:
        address: Address of the cluster: `auto`, `HOST:PORT` or `ray://HOST:PORT`; `local` starts one on this machine.
        threads: CPU cores that a task reserves.
        bound: Memory that a task reserves, bytes. Ray ends tasks if the memory of a machine runs out.
        function: Does a job, see `training.fleet.job.run_job`.
        gpus: GPUs, or the part of one, that a task reserves.

    Raises:
        RayUnavailable: Ray is not installed, or the cluster cannot be reached.
    """

    def __init__(self, address: str, threads: int, bound: int, function: Function, gpus: float = 0) -> None:
        try:
            import ray
        except ImportError as error:
            remedy = "Install the extra `ray` (pip install ./client '.[train,ray]'), in the cluster's version of Ray."
            raise RayUnavailable("the package ray is not installed", remedy) from error
        self._ray = ray
        try:
            _check_reachable(address)
            # The dashboard of a cluster of this process takes longer to start than all the rest.
            dashboard = False if address == "local" else None
            ray.init(address=address, log_to_driver=False, configure_logging=False, include_dashboard=dashboard)
        except (OSError, RuntimeError, ValueError) as error:
            remedy = "Check the address, and that `ray status` reports the cluster on this machine."
            raise RayUnavailable(f"no connection to {address} ({error})", remedy) from error
        self._task = ray.remote(
            num_cpus=threads, num_gpus=gpus, memory=bound, max_retries=RETRIES, max_calls=1, retry_exceptions=False
        )(_remote)
        self._function = function

    def run(self, jobs: Sequence[Job], watch: Watch, stop: Interruption) -> Iterator[tuple[Job, Outcome]]:
        """See `training.fleet.engine.Engine`."""
        tasks = {self._task.remote(self._function, job): job for job in jobs}
        watch("the cluster", f"{len(tasks)} tasks")
        cancelled = False
        try:
            while tasks:
                if stop.signal is not None and not cancelled:
                    cancelled = True
                    self._cancel(tasks)
                ended, _ = self._ray.wait(list(tasks), timeout=POLL_S)
                for task in ended:
                    job = tasks.pop(task)
                    watch("the cluster", f"{len(tasks)} tasks" if tasks else "")
                    yield job, self._outcome(task)
        finally:
            self._cancel(tasks)  # the caller ended the iteration

    def _cancel(self, tasks: dict[Any, Job]) -> None:
        """End the tasks: those in progress write their checkpoints."""
        for task in tasks:
            self._ray.cancel(task)

    def _outcome(self, task: Any) -> Outcome:
        from training.fleet.results import Result

        errors = self._ray.exceptions
        try:
            outcome: Outcome = self._ray.get(task)
        except errors.TaskCancelledError:
            return "interrupted"
        except errors.RayTaskError as error:
            cause = error.cause
            if isinstance(cause, KeyboardInterrupt | errors.TaskCancelledError):
                return "interrupted"
            reason = f"Its task failed: {cause}. The log of the Ray cluster has the details."
        except errors.RayError as error:  # the process or its machine was lost, also after the retries
            reason = f"Its task was lost: {' '.join(str(error).split())[:500]}"
        else:
            return outcome
        return Result(ended_at=time.time(), error=reason)


def _check_reachable(address: str) -> None:
    """Try to connect: Ray itself tries an address where nothing listens for minutes.

    Raises:
        OSError: Nothing listens there.
        ValueError: The address has no port.
    """
    if address in ("auto", "local"):
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not (host and port.isdigit()):
        raise ValueError("expected auto, local, HOST:PORT or ray://HOST:PORT")
    socket.create_connection((host.strip("[]"), int(port)), CONNECT_S).close()


def _remote(function: Function, job: Job) -> Any:
    """Do a job on a machine of the cluster."""
    interruption = Interruption(is_at_once=True)
    before = signal.signal(signal.SIGINT, interruption.on_signal)  # Ray cancels a task like Ctrl-C
    try:
        return function(job, _Silent(), interruption.should_stop)
    finally:
        signal.signal(signal.SIGINT, before)


class _Silent:
    """A `training.pipeline.Reporter` that shows nothing."""

    def note(self, text: str) -> None:
        """Show nothing."""

    def stage(self, title: str, total: int) -> Callable[[int, str], None]:
        """Return a function that shows nothing."""
        del title, total
        return lambda _done, _note: None
