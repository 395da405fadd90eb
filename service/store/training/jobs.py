"""Training jobs: queue, list, cancel, and the files of their images."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields
from datetime import datetime
from uuid import UUID

from sqlalchemy import Engine, func, or_, select, update
from sqlalchemy.orm import Session

from service.store.audit import Actor, AuditEntry, append_audit
from service.store.errors import TrainingJobEnded, UnknownTrainingJob
from service.store.models import TrainingImageRow, TrainingJobRow
from service.store.session import reading, writing
from service.store.training.records import (
    JobCounts,
    JobDraft,
    TrainedVersion,
    TrainingFindings,
    TrainingImage,
    TrainingJobRecord,
)

_NAMES = tuple(field.name for field in fields(TrainingJobRecord) if field.name not in {"versions", "findings"})
_IDS_AT_ONCE = 500
_IMAGE_NAMES = tuple(field.name for field in fields(TrainingImage))


def add_job(engine: Engine, draft: JobDraft, actor: Actor, moment: datetime) -> TrainingJobRecord:
    """Queue a job. The files of its images are written before.

    Args:
        engine: The database.
        draft: The job.
        actor: Who queues it.
        moment: The present time.

    Raises:
        StoreUnavailable: Nothing was stored.
    """
    size = sum(image.size_bytes for image in draft.images)
    with writing(engine, "the training job cannot be stored") as session:
        row = TrainingJobRow(
            id=str(draft.id),
            product=draft.product,
            state="queued",
            created_at=moment,
            author=actor.name,
            images=len(draft.images),
            image_bytes=size,
            duplicates=draft.duplicates,
            activate=draft.activate,
            quick_only=draft.quick_only,
            create_product=draft.create_product,
        )
        session.add(row)
        session.flush()
        for image in draft.images:
            session.add(TrainingImageRow(job_id=row.id, **{name: getattr(image, name) for name in _IMAGE_NAMES}))
        session.flush()
        after = {
            "images": row.images,
            "activate": row.activate,
            "quick_only": row.quick_only,
            "create_product": row.create_product,
        }
        found = record_of(row)
        append_audit(session, AuditEntry(actor, "training:queue", draft.product, row.id, after=after))
        return found


def get_job(engine: Engine, product: str, job_id: str) -> TrainingJobRecord:
    """Return a job.

    Raises:
        UnknownTrainingJob: The product has no such job.
        StoreUnavailable: The database cannot be read.
    """
    with reading(engine) as session:
        return record_of(find_job(session, product, job_id))


def list_jobs(
    engine: Engine,
    products: Collection[str] | None,
    *,
    before: UUID | None = None,
    limit: int = 50,
) -> Sequence[TrainingJobRecord]:
    """Return jobs, newest first.

    Args:
        engine: The database.
        products: Only jobs of these products; None for all.
        before: Only jobs with a smaller id.
        limit: Maximum number of jobs.

    Raises:
        StoreUnavailable: The database cannot be read.
    """
    row = TrainingJobRow
    query = select(row).order_by(row.id.desc()).limit(limit)
    if products is not None:
        query = query.where(row.product.in_(sorted(products)))
    if before is not None:
        query = query.where(row.id < str(before))
    with reading(engine) as session:
        return [record_of(found) for found in session.scalars(query)]


def list_job_images(engine: Engine, product: str, job_id: str) -> Sequence[TrainingImage]:
    """Return the images of a job in the order of their numbers.

    Raises:
        UnknownTrainingJob: The product has no such job.
        StoreUnavailable: The database cannot be read.
    """
    query = select(TrainingImageRow).where(TrainingImageRow.job_id == job_id).order_by(TrainingImageRow.number)
    with reading(engine) as session:
        find_job(session, product, job_id)
        return [_image_of(found) for found in session.scalars(query)]


def get_job_image(engine: Engine, product: str, job_id: str, number: int) -> TrainingImage:
    """Return an image of a job.

    Raises:
        UnknownTrainingJob: The product has no such job, or the job no such image.
        StoreUnavailable: The database cannot be read.
    """
    row = TrainingImageRow
    query = select(row).where(row.job_id == job_id, row.number == number)
    with reading(engine) as session:
        find_job(session, product, job_id)
        found = session.scalars(query).one_or_none()
        if found is None:
            raise UnknownTrainingJob(product, job_id, number)
        return _image_of(found)


def existing_jobs(engine: Engine, job_ids: Collection[str]) -> set[str]:
    """Return those of the ids that are ids of jobs.

    Raises:
        StoreUnavailable: The database cannot be read.
    """
    row = TrainingJobRow
    found: set[str] = set()
    ids = sorted(job_ids)
    with reading(engine) as session:
        for start in range(0, len(ids), _IDS_AT_ONCE):  # databases limit the number of values in a statement
            found.update(session.scalars(select(row.id).where(row.id.in_(ids[start : start + _IDS_AT_ONCE]))))
    return found


def count_jobs(engine: Engine) -> JobCounts:
    """Return the numbers of jobs, and the size of the images that are stored.

    Raises:
        StoreUnavailable: The database cannot be read.
    """
    row = TrainingJobRow
    with reading(engine) as session:
        by_state = dict(session.execute(select(row.state, func.count()).group_by(row.state)).all())
        size = session.scalar(select(func.sum(row.image_bytes)).where(row.images_removed_at.is_(None)))
        return JobCounts(by_state, int(size or 0))  # PostgreSQL returns the sum of big integers as a decimal


def cancel_job(engine: Engine, product: str, job_id: str, actor: Actor, moment: datetime) -> TrainingJobRecord:
    """Cancel a job that is queued, or ask the worker that holds it to end.

    Args:
        engine: The database.
        product: The product.
        job_id: The job.
        actor: Who cancels it.
        moment: The present time.

    Raises:
        UnknownTrainingJob: The product has no such job.
        TrainingJobEnded: It has ended already.
        StoreUnavailable: Nothing was stored.
    """
    row = TrainingJobRow
    with writing(engine, "the cancellation cannot be stored") as session:
        # By the state in the database: a worker may claim the job or end it at the same moment.
        changed = session.execute(
            update(row)
            .where(row.id == job_id, row.product == product, row.state == "queued")
            .values(state="cancelled", cancel_requested=True, finished_at=moment)
            .returning(row.id)
        ).one_or_none()
        asked = (
            changed
            or session.execute(
                update(row)
                .where(row.id == job_id, row.product == product, row.state == "running")
                .values(cancel_requested=True)
                .returning(row.id)
            ).one_or_none()
        )
        found = record_of(find_job(session, product, job_id))
        if asked is None:
            raise TrainingJobEnded(product, job_id, found.state)
        append_audit(session, AuditEntry(actor, "training:cancel", product, job_id, after={"state": found.state}))
        return found


def past_jobs(engine: Engine, failed_before: datetime, limit: int = 100) -> Sequence[TrainingJobRecord]:
    """Return ended jobs whose images are stored and no longer needed, oldest first.

    Args:
        engine: The database.
        failed_before: The images of failed jobs are kept until the end of the job is older than this.
        limit: Maximum number of jobs.

    Raises:
        StoreUnavailable: The database cannot be read.
    """
    row = TrainingJobRow
    is_done = or_(
        row.state.in_(("succeeded", "cancelled")), (row.state == "failed") & (row.finished_at < failed_before)
    )
    query = select(row).where(row.images_removed_at.is_(None), is_done).order_by(row.id).limit(limit)
    with reading(engine) as session:
        return [record_of(found) for found in session.scalars(query)]


def image_types(engine: Engine, job_id: str) -> Mapping[int, str]:
    """Return the media types of a job's images by their numbers.

    Raises:
        StoreUnavailable: The database cannot be read.
    """
    row = TrainingImageRow
    with reading(engine) as session:
        return dict(session.execute(select(row.number, row.media_type).where(row.job_id == job_id)).all())


def mark_images_removed(engine: Engine, job_id: str, moment: datetime) -> None:
    """Record that the files of a job's images were removed. It is no change by a person, so it is not audited.

    Raises:
        StoreUnavailable: Nothing was stored.
    """
    row = TrainingJobRow
    with writing(engine, "the removal of the images of a training job cannot be stored") as session:
        session.execute(update(row).where(row.id == job_id).values(images_removed_at=moment))


def find_job(session: Session, product: str, job_id: str) -> TrainingJobRow:
    """Return the row of a job, as it is in the database now.

    Raises:
        UnknownTrainingJob: The product has no such job.
    """
    query = select(TrainingJobRow).where(TrainingJobRow.id == job_id, TrainingJobRow.product == product)
    found = session.scalars(query, execution_options={"populate_existing": True}).one_or_none()
    if found is None:
        raise UnknownTrainingJob(product, job_id)
    return found


def record_of(row: TrainingJobRow) -> TrainingJobRecord:
    """Return the record of a row."""
    versions = tuple(TrainedVersion(**item) for item in row.versions)
    findings = None if row.findings is None else TrainingFindings.of(row.findings)
    return TrainingJobRecord(versions=versions, findings=findings, **{name: getattr(row, name) for name in _NAMES})


def _image_of(row: TrainingImageRow) -> TrainingImage:
    return TrainingImage(**{name: getattr(row, name) for name in _IMAGE_NAMES})
