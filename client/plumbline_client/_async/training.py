"""Training jobs: teach a product from good images, follow the job, and what a worker needs."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from urllib.parse import quote

from plumbline_client._async.concurrency import run_blocking
from plumbline_client._async.connection import AsyncConnection
from plumbline_client.calls import Call, ImageSource, given, product_path, read_good_images
from plumbline_client.schemas.training import (
    ReportedFindings,
    TrainingClaim,
    TrainingImageList,
    TrainingJob,
    TrainingJobPage,
    TrainingOutcome,
    TrainingVersion,
)


class AsyncTrainingCalls(AsyncConnection):
    """The part of `AsyncClient` that deals with training jobs."""

    async def teach_product(
        self,
        product: str,
        images: Sequence[ImageSource],
        *,
        activate: bool = False,
        quick_only: bool = False,
        create_product: bool = False,
        author: str | None = None,
    ) -> TrainingJob:
        """Queue a training job with images of good parts.

        Args:
            product: Name of the product.
            images: Paths, or (name, bytes); at least 8 different ones. Folders below the folder that all paths have in
                common are capture groups.
            activate: Activate the first bundle if the product serves nothing.
            quick_only: Make the quick bundle only, without the whole training afterwards.
            create_product: Accept a product that does not exist yet.
            author: Person who queues the job. With authentication, the service records the authenticated name.

        Raises:
            OSError: A file cannot be read.
            ServiceProblem: An image cannot be used (the message names it), or there are too few. Nothing is queued.
        """
        named = await run_blocking(read_good_images, images)
        files = [("image", (name, data, "application/octet-stream")) for name, data in named]
        options = _options(activate, quick_only, author) | ({"create_product": "true"} if create_product else {})
        params = {name: "true" if value is True else value for name, value in options.items()}
        return await self._load(TrainingJob, Call("POST", f"{product_path(product)}/good-images", params, files=files))

    async def teach_from_inspections(
        self,
        product: str,
        ids: Sequence[str] | None = None,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        activate: bool = False,
        quick_only: bool = False,
        author: str | None = None,
    ) -> TrainingJob:
        """Queue a training job with the images of stored inspections that are labelled good by reviews.

        Args:
            product: Name of the product.
            ids: The inspections; None for all that are labelled good.
            since: Without `ids`: only inspections from this time on.
            until: Without `ids`: only inspections before this time.
            activate: Activate the first bundle if the product serves nothing.
            quick_only: Make the quick bundle only.
            author: Person who queues the job. With authentication, the service records the authenticated name.

        Raises:
            ServiceProblem: An inspection is not labelled good, or its image is no longer stored. Nothing is queued.
        """
        chosen = {"label": "good"} if ids is None else {"ids": list(ids)}
        body = chosen | given({"since": since, "until": until}) | _options(activate, quick_only, author)
        return await self._load(TrainingJob, Call("POST", f"{product_path(product)}/good-images", json=body))

    async def training_jobs(self, product: str, *, cursor: str | None = None, limit: int = 20) -> TrainingJobPage:
        """Return a page of the training jobs of a product, newest first."""
        params = {"limit": limit, **given({"cursor": cursor})}
        return await self._load(TrainingJobPage, Call("GET", _jobs_path(product), params))

    async def training_job(self, product: str, job_id: str) -> TrainingJob:
        """Return a training job with its progress."""
        return await self._load(TrainingJob, Call("GET", _job_path(product, job_id)))

    async def cancel_training(self, product: str, job_id: str) -> TrainingJob:
        """Cancel a training job. One that is running ends a few seconds later.

        Raises:
            ServiceProblem: The job has ended already.
        """
        return await self._load(TrainingJob, Call("POST", f"{_job_path(product, job_id)}:cancel"))

    async def claim_training(self, worker: str) -> TrainingClaim:
        """Get the oldest queued job, for a worker.

        Args:
            worker: Name of the worker.
        """
        return await self._load(TrainingClaim, Call("POST", "/v1/training-jobs:claim", json={"worker": worker}))

    async def report_training(
        self,
        product: str,
        job_id: str,
        claim: int,
        stage: str,
        *,
        done: int = 0,
        total: int = 0,
        seconds: float = 0.0,
        version: TrainingVersion | None = None,
        findings: ReportedFindings | None = None,
    ) -> TrainingJob:
        """Report the progress of a job, as a worker.

        Args:
            product: Name of the product.
            job_id: The job.
            claim: Number of the claim.
            stage: What the worker does at present.
            done: Items of the stage that are done.
            total: Items of the stage; 0 if they are not counted.
            seconds: Seconds since the worker began the job.
            version: A bundle that was uploaded.
            findings: What was found about the images.

        Raises:
            ServiceProblem: The worker no longer holds the job (`training-job-not-held`).
        """
        body: dict[str, Any] = {"claim": claim, "stage": stage, "done": done, "total": total, "seconds": seconds}
        if version is not None:
            body["version"] = version.model_dump(mode="json")
        if findings is not None:
            body["findings"] = findings.model_dump(mode="json")
        return await self._load(TrainingJob, Call("POST", f"{_job_path(product, job_id)}:report", json=body))

    async def finish_training(
        self, product: str, job_id: str, claim: int, outcome: TrainingOutcome, error: str | None = None
    ) -> TrainingJob:
        """End the work on a job, as a worker.

        Args:
            product: Name of the product.
            job_id: The job.
            claim: Number of the claim.
            outcome: The outcome; `released` returns the job to the queue.
            error: Why the job failed.

        Raises:
            ServiceProblem: The worker no longer holds the job (`training-job-not-held`).
        """
        body = {"claim": claim, "outcome": outcome, **given({"error": error})}
        return await self._load(TrainingJob, Call("POST", f"{_job_path(product, job_id)}:finish", json=body))

    async def training_images(self, product: str, job_id: str) -> TrainingImageList:
        """Return the images of a job."""
        return await self._load(TrainingImageList, Call("GET", f"{_job_path(product, job_id)}/images"))

    async def training_image(self, product: str, job_id: str, number: int) -> bytes:
        """Return the file of an image of a job."""
        return await self._send(Call("GET", f"{_job_path(product, job_id)}/images/{number}"))


def _options(activate: bool, quick_only: bool, author: str | None) -> dict[str, Any]:
    flags = {"activate": activate, "quick_only": quick_only}
    return {name: True for name, value in flags.items() if value} | given({"author": author})


def _jobs_path(product: str) -> str:
    return f"{product_path(product)}/training-jobs"


def _job_path(product: str, job_id: str) -> str:
    return f"{_jobs_path(product)}/{quote(job_id, safe='')}"
