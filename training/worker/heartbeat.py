"""Reports about a job while it runs: progress, a sign of life, and whether the job is to end."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self, TypeVar

from plumbline_client import Client, ServiceProblem, ServiceUnreachable
from plumbline_client.errors import UNKNOWN
from plumbline_client.schemas.training import ReportedFindings, TrainingClaim, TrainingJob, TrainingVersion
from training.worker.stop import JobStopped, StopRequest

log = logging.getLogger(__name__)
REPORT_S = 2.0
RETRY_S = 3.0
_MAX_STAGE = 128
_NOT_HELD = "training-job-not-held"
_UNKNOWN_JOB = "unknown-training-job"
_CHANGE_UNDER_WAY = "bundle-change-under-way"
_PROXY_STATUS = {502, 503, 504}
ResultT = TypeVar("ResultT")


class Heartbeat:
    """Reports about one job on a thread of its own. It is a `training.pipeline.Reporter` with one stage at a time.

    Args:
        client: The service.
        claim: The claim of the job.
        stop: Is asked to stop if the job is cancelled or lost, and stops the pipeline at the next item of a stage.
        report_s: Seconds between two reports.
    """

    def __init__(self, client: Client, claim: TrainingClaim, stop: StopRequest, report_s: float = REPORT_S) -> None:
        assert claim.job is not None
        self.job: TrainingJob = claim.job
        self.claim = claim.claim
        self._client = client
        self._stop = stop
        self._pause_s = min(report_s, claim.lease_s / 4)
        self._began = time.monotonic()
        self._prefix = ""
        self._state = ("begin", 0, 0)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work, name="heartbeat", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def begin(self, prefix: str) -> None:
        """Begin a part of the job, whose name precedes the titles of its stages."""
        self._prefix = prefix

    def note(self, text: str) -> None:
        """Log a line."""
        log.info("%s", text)

    def stage(self, title: str, total: int) -> Callable[[int, str], None]:
        """Begin a stage of `total` items and return the function to call after each item.

        The function raises `JobStopped` if the job is to stop.
        """
        self._stop.check()
        name = f"{self._prefix}: {title}"[:_MAX_STAGE] if self._prefix else title[:_MAX_STAGE]
        reported = 0

        def advance(done: int, note: str) -> None:
            nonlocal reported
            self._state = (name, done, total)
            if total and 10 * done // total > reported:
                reported = 10 * done // total
                log.info("%s %d/%d %s", name, done, total, note)
            self._stop.check()

        if total:
            self._state = (name, 0, total)
        return advance

    def add_version(self, version: TrainingVersion) -> None:
        """Report a bundle that was uploaded, and wait until the service has stored it.

        Raises:
            JobStopped: The job is to stop.
            ServiceProblem: The service refuses the report.
        """
        self.persist(lambda: self._report(version))

    def add_findings(self, findings: ReportedFindings) -> None:
        """Report what was found about the images.

        Raises:
            JobStopped, ServiceProblem: See `add_version`.
        """
        self.persist(lambda: self._report(findings=findings))

    def persist(self, send: Callable[[], ResultT]) -> ResultT:
        """Send a request again and again while the service is not available, for instance during its restart.

        Args:
            send: Sends the request.

        Raises:
            JobStopped: The job is to stop, or the worker lost it.
            ServiceProblem: The service refuses the request. That it does not know the job, or one of its images, is no
                loss of the job: nobody else could continue it.
        """
        while True:
            self._stop.check()
            try:
                return send()
            except ServiceUnreachable as error:
                log.warning("%s Trying again in %g s.", error, RETRY_S)
                self._stop.wait(RETRY_S)
            except ServiceProblem as problem:
                if problem.slug == _NOT_HELD:
                    self._stop.request("lost")
                    raise JobStopped from problem
                if not is_temporary(problem):
                    raise
                log.warning("%s Trying again in %g s.", problem, RETRY_S)
                self._stop.wait(RETRY_S)

    def _report(self, version: TrainingVersion | None = None, findings: ReportedFindings | None = None) -> None:
        stage, done, total = self._state
        found = self._client.report_training(
            self.job.product,
            self.job.id,
            self.claim,
            stage,
            done=min(done, total),
            total=total,
            seconds=round(time.monotonic() - self._began, 1),
            version=version,
            findings=findings,
        )
        if found.cancel_requested:
            self._stop.request("cancelled")

    def _work(self) -> None:
        is_reached = True
        while not self._ended.wait(self._pause_s):
            try:
                self._report()
                is_reached = True
            except ServiceProblem as problem:
                if problem.slug in {_NOT_HELD, _UNKNOWN_JOB}:
                    log.warning("The job is no longer held: %s", problem.detail)
                    self._stop.request("lost")
                    return
                log.warning("The service refuses the report: %s", problem.detail)
            except ServiceUnreachable as error:
                if is_reached:
                    log.warning("%s The training continues.", error)
                is_reached = False


def is_temporary(problem: ServiceProblem) -> bool:
    """Return whether the same request may succeed later.

    The service states a time with each 503 for which waiting helps. A proxy before a service that restarts states none.
    While a product is loaded at the start of the service, its bundles cannot be changed.
    """
    if problem.slug == _CHANGE_UNDER_WAY:
        return True
    if problem.slug == UNKNOWN:
        return problem.status in _PROXY_STATUS
    return problem.status == 503 and "retry_after" in problem.problem
