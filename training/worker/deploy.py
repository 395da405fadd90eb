"""What becomes of a bundle that a job made: a product that serves nothing may get it, others get it as shadow."""

from __future__ import annotations

import io
import logging
from collections.abc import Collection

from plumbline_client import Client, ServiceProblem
from plumbline_client.schemas.training import TrainingJob, TrainingVariant, VersionRole
from service.bundle.archive import write_archive
from service.bundle.bundle import Bundle
from training.worker.stop import StopRequest

log = logging.getLogger(__name__)
_WAIT_S = 2.0


def upload(client: Client, job: TrainingJob, bundle: Bundle) -> str:
    """Upload a bundle and return its version.

    Raises:
        ServiceProblem: The service refuses it.
        ServiceUnreachable: There was no response.
    """
    archive = io.BytesIO()
    write_archive(bundle, archive)
    return client.upload_bundle(job.product, archive.getvalue(), create_product=job.create_product).version


def deploy(
    client: Client, job: TrainingJob, variant: TrainingVariant, version: str, own: Collection[str], stop: StopRequest
) -> VersionRole | None:
    """Give an uploaded bundle its role.

    The first bundle of a product that serves nothing is activated if the job says so. Beside an active bundle it runs
    as the shadow, unless another shadow runs that this job did not make: a person is comparing that one.

    Args:
        client: The service.
        job: The job.
        variant: Which bundle of the job it is.
        version: Version of the bundle.
        own: Versions that this job made before.
        stop: Ends the wait for another change of the product's bundles.

    Returns:
        The role; None if the bundle waits for a person.

    Raises:
        JobStopped: The job is to stop.
        ServiceProblem: The bundle cannot be served.
        ServiceUnreachable: There was no response.
    """
    reason = f"training job {job.id}, queued by {job.author} ({variant})"
    while True:
        stop.check()
        status = client.product(job.product).status
        bundles = client.bundles(job.product)
        try:
            if version == bundles.active:
                return "active"
            if version == bundles.shadow:
                return "shadow"
            if status == "ready" and (bundles.shadow is None or bundles.shadow in own):
                client.shadow_bundle(job.product, version, reason=reason)
                return "shadow"
            if status == "inactive" and job.activate:
                client.activate_bundle(job.product, version, reason=reason)
                return "active"
            if status != "loading":
                log.info("Bundle %s of %s waits for a person to activate it.", version, job.product)
                return None
        except ServiceProblem as problem:
            if problem.slug != "bundle-change-under-way":
                raise
        stop.wait(_WAIT_S)
