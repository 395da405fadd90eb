"""Map training jobs to the schemas of the API."""

from __future__ import annotations

from service.inspection.decoding.decoder import ImageLimits
from service.schemas.training import (
    MIN_FULL_IMAGES,
    SuspectedImage,
    TrainingClaim,
    TrainingFindings,
    TrainingImageRecord,
    TrainingJob,
    TrainingVariant,
    TrainingVersion,
)
from service.serving.training.jobs import LEASE_S
from service.store.training.records import TrainedVersion, TrainingImage, TrainingJobRecord
from service.store.training.records import TrainingFindings as FindingsRecord


def to_training_job(job: TrainingJobRecord) -> TrainingJob:
    """Map a job."""
    is_full = not job.quick_only and job.images >= MIN_FULL_IMAGES
    variants: list[TrainingVariant] = ["quick", "full"] if is_full else ["quick"]
    return TrainingJob(
        id=job.id,
        product=job.product,
        state=job.state,
        author=job.author,
        created_at=job.created_at,
        started_at=job.started_at,
        finished_at=job.finished_at,
        images=job.images,
        image_bytes=job.image_bytes,
        duplicates=job.duplicates,
        activate=job.activate,
        quick_only=job.quick_only,
        create_product=job.create_product,
        variants=variants,
        worker=job.worker,
        stage=job.stage,
        done=job.done,
        total=job.total,
        seconds=job.seconds,
        cancel_requested=job.cancel_requested,
        error=job.error,
        versions=[TrainingVersion(variant=made.variant, version=made.version, role=made.role) for made in job.versions],
        are_images_stored=job.images_removed_at is None,
        findings=None if job.findings is None else _to_findings(job.findings),
    )


def to_claim(job: TrainingJobRecord | None, limits: ImageLimits) -> TrainingClaim:
    """Map the result of a claim.

    Args:
        job: The job, if there was one.
        limits: Limits of an image, which the worker has to apply as well.
    """
    return TrainingClaim(
        job=None if job is None else to_training_job(job),
        claim=0 if job is None else job.attempt,
        lease_s=LEASE_S,
        max_image_bytes=limits.max_bytes,
        max_image_pixels=limits.max_pixels,
    )


def to_trained_version(version: TrainingVersion) -> TrainedVersion:
    """Map a bundle that a worker reports."""
    return TrainedVersion(version.variant, version.version, version.role)


def _to_findings(findings: FindingsRecord) -> TrainingFindings:
    return TrainingFindings(
        grouped_by=findings.grouped_by,
        groups=list(findings.groups),
        group_count=findings.group_count,
        held_out_groups=findings.held_out_groups,
        suspected=[SuspectedImage(number=number, name=name) for number, name in findings.suspected],
    )


def to_training_image(image: TrainingImage) -> TrainingImageRecord:
    """Map an image of a job."""
    return TrainingImageRecord(
        number=image.number,
        name=image.name,
        media_type=image.media_type,
        size_bytes=image.size_bytes,
        sha256=image.sha256,
    )
