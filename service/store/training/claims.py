"""Claims of workers: take a job from the queue, report about it, end it, and what becomes of a worker that is lost.

A claim has a number, which every report states. The job of a worker that did not report within its lease is queued
again. If another worker claims it, under the next number, the reports of the first one change nothing. If the first one
reports before, the service could not be reached meanwhile, and it gets the job back.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Engine, select, update
from sqlalchemy.orm import Session

from service.schemas.training import TrainingState
from service.store.audit import SERVICE, Actor, AuditAction, AuditEntry, append_audit
from service.store.errors import TrainingJobNotHeld
from service.store.models import TrainingJobRow
from service.store.session import reading, writing
from service.store.training.jobs import find_job, record_of
from service.store.training.records import JobEnd, JobProgress, TrainingJobRecord

MAX_LOSSES = 3
"""A job whose workers were lost so often fails: most likely it is what ends them, for instance by its memory."""
_LOST = (
    f"The worker stopped to report {MAX_LOSSES} times. Read its log; the memory of its machine may be too small for "
    "these images."
)


def claim_job(
    engine: Engine, actor: Actor, worker: str, products: Collection[str] | None, moment: datetime, lease: timedelta
) -> TrainingJobRecord | None:
    """Give the oldest queued job to a worker; None if there is none.

    Args:
        engine: The database.
        actor: Who claims it.
        worker: Name of the worker.
        products: Only jobs of these products; None for all.
        moment: The present time.
        lease: Time within which the worker has to report.

    Raises:
        StoreUnavailable: Nothing was stored.
    """
    row = TrainingJobRow
    oldest = select(row.id, row.product).where(row.state == "queued").order_by(row.id).limit(1)
    if products is not None:
        oldest = oldest.where(row.product.in_(sorted(products)))
    with reading(engine) as session:  # most polls find nothing, and must not take the lock of the writer
        chosen = session.execute(oldest).one_or_none()
    if chosen is None:
        return None
    with writing(engine, "the claim of a training job cannot be stored") as session:
        claimed = session.execute(
            update(row)
            .where(row.id == chosen.id, row.state == "queued")
            .values(
                state="running",
                attempt=row.attempt + 1,
                worker=worker,
                started_at=moment,
                lease_until=moment + lease,
                stage=None,
                done=0,
                total=0,
                seconds=0.0,
            )
            .returning(row.id)
        ).one_or_none()
        if claimed is None:  # another worker was faster
            return None
        found = record_of(find_job(session, chosen.product, chosen.id))
        after = {"worker": worker, "claim": found.attempt}
        append_audit(session, AuditEntry(actor, "training:start", found.product, found.id, after=after))
        return found


def report_progress(
    engine: Engine, product: str, job_id: str, claim: int, progress: JobProgress, moment: datetime, lease: timedelta
) -> TrainingJobRecord:
    """Store the progress of a job and prolong the lease. Reports are frequent, so they are not audited.

    Args:
        engine: The database.
        product: The product.
        job_id: The job.
        claim: Number of the claim, which is in force, or was the last one if the job is queued.
        progress: The progress.
        moment: The present time.
        lease: Time within which the worker has to report again.

    Raises:
        UnknownTrainingJob: The product has no such job.
        TrainingJobNotHeld: The claim is no longer in force.
        StoreUnavailable: Nothing was stored.
    """
    values: dict[str, Any] = {
        "stage": progress.stage,
        "done": progress.done,
        "total": progress.total,
        "seconds": progress.seconds,
        "lease_until": moment + lease,
    }
    if progress.findings is not None:
        values["findings"] = progress.findings.values()
    with writing(engine, "the progress of a training job cannot be stored") as session:
        if not _change(session, product, job_id, claim, "running", values):
            _take_back(session, product, job_id, claim, values)
        row = find_job(session, product, job_id)
        made = progress.version
        # The same report may arrive twice, if the response to the first one was lost.
        if made is not None and all(item["version"] != made.version for item in row.versions):
            row.versions = [*row.versions, made.values()]
            session.flush()
        return record_of(row)


def end_job(
    engine: Engine, product: str, job_id: str, claim: int, end: JobEnd, actor: Actor, moment: datetime
) -> TrainingJobRecord:
    """End the work on a job, or return the job to the queue.

    Args:
        engine: The database.
        product: The product.
        job_id: The job.
        claim: Number of the claim.
        end: How the work ended.
        actor: Who ends it.
        moment: The present time.

    Raises:
        UnknownTrainingJob: The product has no such job.
        TrainingJobNotHeld: The claim is no longer in force.
        StoreUnavailable: Nothing was stored.
    """
    values: dict[str, Any] = {"lease_until": None, "error": end.error}
    with writing(engine, "the end of a training job cannot be stored") as session:
        if end.outcome == "released":
            # A person may have asked for the end of a job whose worker stops at this moment.
            _update_held(session, product, job_id, claim, {"lease_until": None})
            held = find_job(session, product, job_id)
            values |= _requeued(held.cancel_requested, moment)
        else:
            values |= {"state": end.outcome, "finished_at": moment}
        _update_held(session, product, job_id, claim, values)
        found = record_of(find_job(session, product, job_id))
        action: AuditAction = "training:finish" if found.is_ended else "training:requeue"
        append_audit(session, AuditEntry(actor, action, product, job_id, after=_outcome(found)))
        return found


def recover_lost(engine: Engine, moment: datetime) -> Sequence[TrainingJobRecord]:
    """Return jobs whose worker stopped to report to the queue; end those that were lost too often or are cancelled.

    Args:
        engine: The database.
        moment: The present time.

    Returns:
        The jobs that were changed.

    Raises:
        StoreUnavailable: Not all of them were changed.
    """
    row = TrainingJobRow
    with reading(engine) as session:
        overdue = session.execute(
            select(row.id, row.product, row.attempt).where(row.state == "running", row.lease_until < moment)
        ).all()
    return [found for one in overdue if (found := _recover(engine, *one, moment)) is not None]


def _recover(engine: Engine, job_id: str, product: str, claim: int, moment: datetime) -> TrainingJobRecord | None:
    row = TrainingJobRow
    with writing(engine, "the loss of a training job's worker cannot be stored") as session:
        lost = session.execute(
            update(row)
            .where(row.id == job_id, row.state == "running", row.attempt == claim, row.lease_until < moment)
            .values(losses=row.losses + 1, lease_until=None)
            .returning(row.losses, row.cancel_requested)
        ).one_or_none()
        if lost is None:  # it reported meanwhile, or another process was faster
            return None
        values = _requeued(lost.cancel_requested, moment)
        if lost.losses >= MAX_LOSSES and not lost.cancel_requested:
            values = {"state": "failed", "finished_at": moment, "error": _LOST}
        session.execute(update(row).where(row.id == job_id).values(**values))
        found = record_of(find_job(session, product, job_id))
        action: AuditAction = "training:finish" if found.is_ended else "training:requeue"
        append_audit(session, AuditEntry(SERVICE, action, product, job_id, after=_outcome(found)))
        return found


def _requeued(cancel_requested: bool, moment: datetime) -> dict[str, Any]:
    """Return the values of a job that no worker holds any more."""
    return {"state": "cancelled", "finished_at": moment} if cancel_requested else {"state": "queued"}


def _update_held(session: Session, product: str, job_id: str, claim: int, values: dict[str, Any]) -> None:
    if not _change(session, product, job_id, claim, "running", values):
        find_job(session, product, job_id)
        raise TrainingJobNotHeld(product, job_id, claim)


def _take_back(session: Session, product: str, job_id: str, claim: int, values: dict[str, Any]) -> None:
    """Give a job that was queued again to the worker that did not report in time, and does not count as lost then."""
    row = find_job(session, product, job_id)
    back = values | {"state": "running", "losses": row.losses - 1}
    if row.losses == 0 or not _change(session, product, job_id, claim, "queued", back):
        raise TrainingJobNotHeld(product, job_id, claim)
    after = {"worker": row.worker, "claim": claim}
    append_audit(session, AuditEntry(SERVICE, "training:start", product, job_id, after=after))


def _change(
    session: Session, product: str, job_id: str, claim: int, state: TrainingState, values: dict[str, Any]
) -> bool:
    """Change a job if it is in a state and this is its newest claim. Return whether it was changed."""
    row = TrainingJobRow
    return (
        session.execute(
            update(row)
            .where(row.id == job_id, row.product == product, row.state == state, row.attempt == claim)
            .values(**values)
            .returning(row.id)
            .execution_options(synchronize_session=False)
        ).one_or_none()
        is not None
    )


def _outcome(job: TrainingJobRecord) -> dict[str, Any]:
    """Return what the audit log states about the end of a claim."""
    versions = [item.version for item in job.versions]
    return {"state": job.state, "worker": job.worker, "versions": versions, "error": job.error}
