"""Training jobs: queue them, give them to workers, follow and cancel them, and remove their images."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import timedelta
from uuid import UUID

import structlog

from service.deployment.configuration import inspector_options
from service.deployment.errors import UnknownProduct
from service.deployment.registry import Registry
from service.errors import InvalidRequest
from service.monitoring.clock import Clock
from service.monitoring.training_metrics import TrainingMetrics
from service.schemas.training import MAX_SELECTED_IMAGES, GoodImageSelection, GoodImageUpload, ReportedFindings
from service.serving.archive_space import ArchiveSpace
from service.serving.batch import Frame
from service.serving.bundles import require_product_name
from service.serving.errors import GoodImagesBusy
from service.serving.pagination import Page, read_page
from service.serving.training.abandoned import remove_abandoned
from service.serving.training.good_images import GoodImages
from service.settings import Settings
from service.store.audit import Actor
from service.store.errors import StoreUnavailable, UnknownTrainingJob
from service.store.inspections import Selection, select_inspections
from service.store.records import InspectionRecord
from service.store.review_queries import labelled_ids, labels_of
from service.store.store import Store
from service.store.training.claims import claim_job, end_job, recover_lost, report_progress
from service.store.training.jobs import (
    add_job,
    cancel_job,
    count_jobs,
    get_job,
    get_job_image,
    image_types,
    list_job_images,
    list_jobs,
    mark_images_removed,
    past_jobs,
)
from service.store.training.records import (
    JobDraft,
    JobEnd,
    JobProgress,
    TrainingFindings,
    TrainingImage,
    TrainingJobRecord,
)

LEASE_S = 60.0
"""Seconds within which a worker has to report. It reports every few seconds."""
_MAX_NAMED = 10
log = structlog.get_logger(__name__)


class TrainingService:
    """Queues training jobs and gives them to workers. The service itself never trains.

    Images are decoded on one thread and one at a time, so that an inspection waits for at most one of them.

    Args:
        settings: Limits of images and of their storage.
        registry: The products that exist.
        store: Stores jobs, images and inspections.
        metrics: The metrics of training jobs.
        clock: The time of day.

    Attributes:
        limits: Limits of one image.
    """

    def __init__(
        self, settings: Settings, registry: Registry, store: Store, metrics: TrainingMetrics, clock: Clock
    ) -> None:
        self._registry = registry
        self._store = store
        self._metrics = metrics
        self._clock = clock
        self.limits = inspector_options(settings).limits
        self._budget_bytes = settings.max_training_bytes
        self._largest_call_bytes = settings.max_call_bytes
        self._failed_age = timedelta(days=settings.training_retention_days)
        folder = store.files.folder  # None for images on a server, which has no free space to ask for
        self._space = None if folder is None else ArchiveSpace(folder, settings.min_data_free_bytes)
        self._is_busy = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="good-images")

    async def queue_sent(
        self,
        product: str,
        options: GoodImageUpload,
        frames: AsyncIterator[Frame],
        actor: Actor,
        stated_bytes: int | None,
    ) -> TrainingJobRecord:
        """Queue a job with images as they arrive, completely or not at all.

        Args:
            product: Name of the product.
            options: What is to be done with the images.
            frames: The images.
            actor: Who queues the job.
            stated_bytes: Size of the body that the client states, or None.

        Raises:
            InvalidRequest: The name of the product is not valid, an image cannot be used (the message names it), or
                there are too few.
            UnknownProduct: The product is new, and the options do not permit that.
            GoodImagesBusy: Images of another job are being received.
            TrainingStorageFull, StoreUnavailable: The images cannot be stored.
        """
        await self._require_product(product, may_be_new=options.create_product)
        loop = asyncio.get_running_loop()
        size = self._largest_call_bytes if stated_bytes is None else stated_bytes
        with self._receiving(size):
            images = await loop.run_in_executor(self._thread, self._begin)
            try:
                count = 0
                async for frame in frames:
                    count += 1
                    try:
                        await loop.run_in_executor(self._thread, images.add_sent, frame, count)
                    finally:
                        frame.release()
                return await loop.run_in_executor(self._thread, self._add_job, product, options, images, actor)
            except BaseException:  # also if the client disconnects
                self._thread.submit(images.discard)
                raise

    async def queue_selected(self, product: str, selection: GoodImageSelection, actor: Actor) -> TrainingJobRecord:
        """Queue a job with the images of stored inspections that are labelled good by reviews.

        Args:
            product: Name of the product.
            selection: The inspections, and what is to be done with their images.
            actor: Who queues the job.

        Raises:
            UnknownProduct: There is no such product.
            UnknownInspection: The product has no inspection with one of the ids.
            InvalidRequest: An inspection is not labelled good, or there are too few.
            ArtefactGone, StoredImageUnreadable: The image of an inspection cannot be used.
            GoodImagesBusy, TrainingStorageFull, StoreUnavailable: See `queue_sent`.
        """
        await self._require_product(product, may_be_new=False)
        loop = asyncio.get_running_loop()
        records = await loop.run_in_executor(self._thread, self._select, product, selection)
        with self._receiving(sum(record.image_bytes for record in records)):
            return await loop.run_in_executor(self._thread, self._copy, product, selection, records, actor)

    def list_jobs(self, products: Collection[str] | None, before: UUID | None, limit: int) -> Page[TrainingJobRecord]:
        """Return a page of jobs, newest first.

        Args:
            products: Only jobs of these products; None for all.
            before: Return only jobs with a smaller id.
            limit: Maximum number of jobs.

        Raises:
            StoreUnavailable: The database cannot be read.
        """
        engine = self._store.engine
        return read_page(lambda count: list_jobs(engine, products, before=before, limit=count), limit)

    def get(self, product: str, job_id: str) -> TrainingJobRecord:
        """Return a job.

        Raises:
            UnknownTrainingJob, StoreUnavailable: See `get_job`.
        """
        return get_job(self._store.engine, product, job_id)

    def cancel(self, product: str, job_id: str, actor: Actor) -> TrainingJobRecord:
        """Cancel a job. A worker that holds it notices it with its next report.

        Raises:
            UnknownTrainingJob, TrainingJobEnded, StoreUnavailable: See `cancel_job`.
        """
        job = cancel_job(self._store.engine, product, job_id, actor, self._clock.now())
        self._note_end(job)
        return job

    def claim(self, worker: str, products: Collection[str] | None, actor: Actor) -> TrainingJobRecord | None:
        """Give the oldest queued job to a worker; None if there is none.

        Args:
            worker: Name of the worker.
            products: Only jobs of these products; None for all.
            actor: Who claims it.

        Raises:
            StoreUnavailable: The database cannot be used.
        """
        self._recover()
        job = claim_job(self._store.engine, actor, worker, products, self._clock.now(), timedelta(seconds=LEASE_S))
        if job is not None:
            self.refresh()
        return job

    def report(
        self,
        product: str,
        job_id: str,
        claim: int,
        progress: JobProgress,
        reported: ReportedFindings | None = None,
    ) -> TrainingJobRecord:
        """Store the progress that a worker reports.

        Args:
            product: Name of the product.
            job_id: The job.
            claim: Number of the claim.
            progress: The progress.
            reported: What the worker found about the images. Numbers of images that the job has not are left out.

        Raises:
            UnknownTrainingJob, TrainingJobNotHeld, StoreUnavailable: See `report_progress`.
        """
        if reported is not None:
            names = {image.number: image.name for image in self.images(product, job_id)}
            suspected = tuple((number, names[number]) for number in reported.suspected if number in names)
            findings = TrainingFindings(
                suspected,
                reported.grouped_by,
                tuple(reported.groups),
                reported.group_count,
                reported.held_out_groups,
            )
            progress = replace(progress, findings=findings)
        moment, lease = self._clock.now(), timedelta(seconds=LEASE_S)
        return report_progress(self._store.engine, product, job_id, claim, progress, moment, lease)

    def end(self, product: str, job_id: str, claim: int, end: JobEnd, actor: Actor) -> TrainingJobRecord:
        """End the work on a job, or return the job to the queue.

        Raises:
            UnknownTrainingJob, TrainingJobNotHeld, StoreUnavailable: See `end_job`.
        """
        job = end_job(self._store.engine, product, job_id, claim, end, actor, self._clock.now())
        self._note_end(job)
        return job

    def images(self, product: str, job_id: str) -> Sequence[TrainingImage]:
        """Return the images of a job.

        Raises:
            UnknownTrainingJob, StoreUnavailable: See `list_job_images`.
        """
        return list_job_images(self._store.engine, product, job_id)

    def read_image(self, product: str, job_id: str, number: int) -> tuple[TrainingImage, bytes]:
        """Return an image of a job and its file.

        Raises:
            UnknownTrainingJob: The job has no such image, or it is no longer stored.
            StoreUnavailable: It cannot be read.
        """
        image = get_job_image(self._store.engine, product, job_id, number)
        try:
            return image, self._store.files.read_training_image(UUID(job_id), number, image.media_type)
        except FileNotFoundError as error:
            raise UnknownTrainingJob(product, job_id, number) from error

    def sweep(self) -> None:
        """Return the jobs of lost workers to the queue, and remove images that are no longer needed.

        Raises:
            StoreUnavailable: The database cannot be used.
        """
        self._recover()
        for job in past_jobs(self._store.engine, self._clock.now() - self._failed_age):
            self._remove_images(job)
        remove_abandoned(self._store, self._clock.now())
        self.refresh()

    def close(self) -> None:
        """Complete the submitted work and stop the thread."""
        self._thread.shutdown()

    @contextmanager
    def _receiving(self, size_bytes: int) -> Iterator[None]:
        """Reserve disk space for images and exclude other requests with images. Used from the event loop only."""
        if self._is_busy:
            raise GoodImagesBusy
        with ExitStack() as reserved:
            if self._space is not None:
                reserved.enter_context(self._space.reserve(size_bytes, "a training job with images"))
            self._is_busy = True
            try:
                yield
            finally:
                self._is_busy = False

    def _begin(self) -> GoodImages:
        self._store.require_writable()
        stored_bytes = count_jobs(self._store.engine).stored_bytes
        return GoodImages(self._store, self.limits, self._budget_bytes, stored_bytes)

    async def _require_product(self, product: str, *, may_be_new: bool) -> None:
        require_product_name(product)
        # Not on the thread of the images, which may be busy with a large one.
        if not may_be_new and not await asyncio.to_thread(self._registry.products.contains, product):
            remedy = "If the product is new, confirm that: send its images with create_product=true."
            raise UnknownProduct(product, self._registry.known, self._registry.source.repository, remedy)

    def _select(self, product: str, given: GoodImageSelection) -> Sequence[InspectionRecord]:
        engine = self._store.engine
        if given.ids is None:
            period = given.since, given.until
            ids = labelled_ids(engine, product, "good", *period, MAX_SELECTED_IMAGES, with_image=True)
            return select_inspections(engine, product, Selection(tuple(ids)), len(ids)) if ids else []
        records = select_inspections(engine, product, Selection(tuple(given.ids)), len(given.ids))
        labels = labels_of(engine, [record.id for record in records])
        others = [record.id for record in records if record.id not in labels or labels[record.id].label != "good"]
        if others:
            named = ", ".join(others[:_MAX_NAMED]) + (", ..." if len(others) > _MAX_NAMED else "")
            raise InvalidRequest(
                f"{len(others)} of the inspections are not labelled good by reviews: {named}. Review them, or leave "
                "them out."
            )
        return records

    def _copy(
        self, product: str, selection: GoodImageSelection, records: Sequence[InspectionRecord], actor: Actor
    ) -> TrainingJobRecord:
        images = self._begin()
        try:
            for record in records:
                images.add_stored(record)
            return self._add_job(product, selection, images, actor)
        except BaseException:
            images.discard()
            raise

    def _add_job(
        self, product: str, options: GoodImageUpload | GoodImageSelection, images: GoodImages, actor: Actor
    ) -> TrainingJobRecord:
        images.require_enough()
        draft = JobDraft(
            id=images.job_id,
            product=product,
            images=tuple(images.images),
            duplicates=images.duplicates,
            activate=options.activate,
            quick_only=options.quick_only,
            create_product=isinstance(options, GoodImageUpload) and options.create_product,
        )
        job = add_job(self._store.engine, draft, actor, self._clock.now())
        # A request that is cancelled now discards its images after this method, on the same thread.
        images.keep()
        log.info("training job queued", product=product, job=job.id, images=job.images)
        self.refresh()
        return job

    def _recover(self) -> None:
        for job in recover_lost(self._store.engine, self._clock.now()):
            log.warning("worker of a training job lost", product=job.product, job=job.id, state=job.state)
            self._metrics.lost.inc()
            self._note_end(job)

    def _note_end(self, job: TrainingJobRecord) -> None:
        """Count a job if it has ended, and remove its images unless it failed."""
        if job.is_ended:
            log.info("training job ended", product=job.product, job=job.id, state=job.state)
            self._metrics.ended.labels(job.state).inc()
            if job.state == "succeeded" and job.started_at is not None and job.finished_at is not None:
                self._metrics.duration.observe((job.finished_at - job.started_at).total_seconds())
            if job.state != "failed":
                self._remove_images(job)
        self.refresh()

    def _remove_images(self, job: TrainingJobRecord) -> None:
        """Remove the images of an ended job. A failure is only logged: the next sweep removes them."""
        try:
            self._store.files.remove_training_images(UUID(job.id), image_types(self._store.engine, job.id))
            mark_images_removed(self._store.engine, job.id, self._clock.now())
        except StoreUnavailable as error:
            log.warning("images of a training job not removed", job=job.id, reason=error.reason)

    def refresh(self) -> None:
        """Set the gauges. The database may have failed meanwhile; the change before was stored."""
        try:
            counts = count_jobs(self._store.engine)
        except StoreUnavailable as error:
            log.warning("training jobs not counted", reason=error.reason)
            return
        self._metrics.set_jobs(counts.by_state, counts.stored_bytes)
