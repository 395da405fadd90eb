"""The loop of a worker: claim a job, do it, claim the next one."""

from __future__ import annotations

import logging

from plumbline_client import Client, ServiceProblem, ServiceUnreachable
from plumbline_client.schemas.training import TrainingClaim, TrainingOutcome
from training.worker.job import JobOptions, remove_ended, run_job
from training.worker.stop import StopRequest

log = logging.getLogger(__name__)
POLL_S = 3.0
UNREACHABLE_POLL_S = 10.0


def run_worker(
    client: Client, name: str, options: JobOptions, stop: StopRequest, *, once: bool = False, poll_s: float = POLL_S
) -> TrainingOutcome | None:
    """Do jobs, one at a time, until a signal.

    Args:
        client: The service.
        name: Name of the worker.
        options: How jobs are done.
        stop: Ends the work.
        once: Do at most one job: return after it, or at once if none is queued.
        poll_s: Seconds between two questions for a job.

    Returns:
        The outcome of the last job; None if there was none, or if the worker lost it.

    Raises:
        ServiceProblem: The service refuses the worker: its key is not valid or has not the scope `engineer`.
        ServiceUnreachable: With `once`, the service cannot be reached.
    """
    outcome: TrainingOutcome | None = None
    is_reached = True
    is_clean = False
    while stop.signal is None:
        stop.begin_job()
        claim: TrainingClaim | None = None
        try:
            if not is_clean:
                remove_ended(client, options.work)
                is_clean = True
            claim = client.claim_training(name)
            if not is_reached:
                log.info("The service can be reached again.")
            is_reached = True
        except ServiceUnreachable as error:
            if once:
                raise
            if is_reached:
                log.warning("%s Trying again.", error)
            is_reached = False
        except ServiceProblem as problem:
            if once or problem.status < 500:  # waiting does not help with a wrong key
                raise
            log.warning("No job can be claimed now: %s", problem.detail)
        if claim is not None and claim.job is not None:
            job = claim.job
            log.info("Job %s of %s, %d images, queued by %s.", job.id, job.product, job.images, job.author)
            outcome = run_job(client, claim, options, stop)
        elif not once:
            stop.wait(poll_s if is_reached else UNREACHABLE_POLL_S)
        if once:
            break
    return outcome
