"""One training job from its claim to its end."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from uuid import UUID

from plumbline_client import Client, PlumblineClientError, ServiceProblem, ServiceUnreachable
from plumbline_client.schemas.training import (
    MAX_ERROR,
    TrainingClaim,
    TrainingJob,
    TrainingOutcome,
    TrainingVariant,
    TrainingVersion,
)
from service.bundle.bundle import Bundle
from service.errors import PlumblineError
from service.inspection.decoding.decoder import ImageLimits
from training.config import FitConfig
from training.dataset import DataSet
from training.errors import WeakBundle
from training.image_limits import use_image_limits
from training.pipeline import Request
from training.resumption import continue_or_restart
from training.worker.deploy import deploy, upload
from training.worker.findings import findings_of
from training.worker.heartbeat import RETRY_S, Heartbeat, is_temporary
from training.worker.images import image_paths, is_complete, write_image
from training.worker.stop import Reason, StopRequest

log = logging.getLogger(__name__)
_FINISH_ATTEMPTS = 5
_IMAGES = "images"


@dataclass(frozen=True)
class JobOptions:
    """How jobs are done.

    Attributes:
        work: Folder with one folder per product and job: images, checkpoints and bundles until the job has ended.
        configs: Settings of the training by variant.
        allow_weak: Upload a bundle even if the network hardly finds synthetic anomalies.
        models: Model repository that also gets the bundles; None for none.
    """

    work: Path
    configs: Mapping[TrainingVariant, FitConfig]
    allow_weak: bool = False
    models: Path | None = None


def run_job(client: Client, claim: TrainingClaim, options: JobOptions, stop: StopRequest) -> TrainingOutcome | None:
    """Do a job: get its images, make its bundles, upload them and give them their roles.

    The folder of the job is kept if the worker was interrupted or lost the job, so that the work can continue there.
    Otherwise it is removed.

    Args:
        client: The service.
        claim: The claim of the job.
        options: How to do it.
        stop: Ends the work.

    Returns:
        The outcome; None if the worker lost the job.
    """
    job = claim.job
    assert job is not None
    folder = options.work / job.product / job.id
    error: str | None = None
    outcome: TrainingOutcome = "succeeded"
    try:
        limits = ImageLimits(max_bytes=claim.max_image_bytes, max_pixels=claim.max_image_pixels)
        with use_image_limits(limits), Heartbeat(client, claim, stop) as heartbeat:
            _make_bundles(client, job, options, heartbeat, stop, folder)
    except KeyboardInterrupt:
        found = _OUTCOMES[stop.reason or "interrupted"]
        if found is None:
            log.warning("Job %s was given to another worker or has ended.", job.id)
            return None
        outcome = found
    except PlumblineError as failure:
        outcome, error = "failed", failure.detail
    except PlumblineClientError as failure:
        outcome, error = "failed", failure.detail if isinstance(failure, ServiceProblem) else str(failure)
    except OSError as failure:
        place = f"{Path(failure.filename).name}: " if failure.filename else ""
        outcome, error = "failed", f"{place}{failure.strerror or failure} (on the machine of the worker)"
    except Exception as failure:
        log.exception("The training failed unexpectedly.")
        outcome, error = (
            "failed",
            f"The worker failed unexpectedly ({type(failure).__name__}); its log has the details.",
        )
    if outcome != "released":
        shutil.rmtree(folder, ignore_errors=True)
    _finish(client, job, claim.claim, outcome, error)
    return outcome


def remove_ended(client: Client, work: Path) -> None:
    """Remove the folders of jobs that have ended since this worker worked on them.

    Args:
        client: The service.
        work: Folder with one folder per product and job.

    Raises:
        ServiceUnreachable: There was no response.
    """
    for folder in sorted(work.glob("*/*")):
        if not _is_job_id(folder.name):  # `work` may be a folder with other files
            continue
        try:
            is_open = client.training_job(folder.parent.name, folder.name).state in {"queued", "running"}
        except ServiceProblem as problem:
            is_open = problem.slug != "unknown-training-job"
        if not is_open:
            shutil.rmtree(folder, ignore_errors=True)


_OUTCOMES: Mapping[Reason, Literal["released", "cancelled"] | None] = {
    "interrupted": "released",
    "cancelled": "cancelled",
    "lost": None,
}


def _make_bundles(
    client: Client, job: TrainingJob, options: JobOptions, heartbeat: Heartbeat, stop: StopRequest, folder: Path
) -> None:
    numbers = _download(client, job, heartbeat, folder / _IMAGES)
    made = {version.variant: version.version for version in job.versions}
    for variant in job.variants:
        if variant in made:  # before the worker was interrupted
            continue
        heartbeat.begin(variant)
        try:
            bundle = _train(job, options, heartbeat, stop, numbers, folder / variant, variant)
        except WeakBundle as weak:
            if variant == job.variants[-1]:
                raise
            log.warning("There is no first bundle of %s. %s", job.product, weak.detail)
            continue
        placing = heartbeat.stage("upload the bundle", 1)
        version = heartbeat.persist(lambda bundle=bundle: upload(client, job, bundle))  # type: ignore[misc]
        own = tuple(made.values())
        role = heartbeat.persist(
            lambda variant=variant, version=version, own=own: deploy(client, job, variant, version, own, stop)  # type: ignore[misc]
        )
        heartbeat.add_version(TrainingVersion(variant=variant, version=version, role=role))
        made[variant] = version
        log.info("Bundle %s of %s (%s) is uploaded%s.", version, job.product, variant, f" and {role}" if role else "")
        placing(1, "")


def _download(client: Client, job: TrainingJob, heartbeat: Heartbeat, folder: Path) -> dict[Path, int]:
    """Get the images of a job and return the number of each file."""
    numbers: dict[Path, int] = {}
    listed = heartbeat.persist(lambda: client.training_images(job.product, job.id)).items
    loading = heartbeat.stage("get the images", len(listed))
    for count, (image, path) in enumerate(zip(listed, image_paths(folder, listed), strict=True), 1):
        if not is_complete(path, image):
            number = image.number
            data = heartbeat.persist(lambda number=number: client.training_image(job.product, job.id, number))  # type: ignore[misc]
            write_image(path, data)
        numbers[path] = image.number
        loading(count, "")
    return numbers


def _train(
    job: TrainingJob,
    options: JobOptions,
    heartbeat: Heartbeat,
    stop: StopRequest,
    numbers: Mapping[Path, int],
    folder: Path,
    variant: TrainingVariant,
) -> Bundle:
    """Return the bundle of a variant; one that was made before the worker was interrupted is not made again."""
    models = folder / "models"
    for written in sorted((models / job.product).glob("[!.]*")):
        return Bundle.load(written)

    def on_checked(data: DataSet, suspected: Sequence[Path]) -> None:
        heartbeat.add_findings(findings_of(data, suspected, numbers))

    request = Request(
        data=folder.parent / _IMAGES,
        product=job.product,
        models=models,
        run_dir=folder / "run",
        config=options.configs[variant],
        allow_weak=options.allow_weak,
        checked=variant != job.variants[0],
    )
    with stop.at_once():
        bundle = continue_or_restart(request, heartbeat, stop.should_stop, on_checked).bundle
    if options.models is not None:
        _keep(bundle, options.models / job.product)
    return bundle


def _keep(bundle: Bundle, product: Path) -> None:
    """Copy a bundle into a model repository, completely or not at all."""
    target = product / bundle.version
    if target.exists():
        return
    scratch = product / f".{bundle.version}.part"
    shutil.rmtree(scratch, ignore_errors=True)
    shutil.copytree(bundle.path, scratch)
    scratch.rename(target)


def _is_job_id(name: str) -> bool:
    try:
        return str(UUID(name)) == name
    except ValueError:
        return False


def _finish(client: Client, job: TrainingJob, claim: int, outcome: TrainingOutcome, error: str | None) -> None:
    """Tell the service how the work ended. If it cannot be told, the lease ends and the job is queued again."""
    log.log(
        logging.ERROR if outcome == "failed" else logging.INFO,
        "Job %s of %s: %s%s",
        job.id,
        job.product,
        outcome,
        "" if error is None else f". {error}",
    )
    for _ in range(_FINISH_ATTEMPTS):
        try:
            client.finish_training(job.product, job.id, claim, outcome, None if error is None else _sendable(error))
        except ServiceUnreachable as unreachable:
            log.warning("%s", unreachable)
        except ServiceProblem as problem:
            log.warning("The service refuses the end of the job: %s", problem.detail)
            if not is_temporary(problem):
                return
        else:
            return
        time.sleep(RETRY_S)  # not `StopRequest.wait`, which returns at once after a signal or a cancellation


def _sendable(error: str) -> str:
    """Return an error as a text that the service accepts: it refuses control characters and an empty text."""
    shown = "".join(letter if letter.isprintable() or letter in "\n\t" else "\ufffd" for letter in error)
    return shown[:MAX_ERROR].strip() or "The worker stated no reason; its log has the details."
