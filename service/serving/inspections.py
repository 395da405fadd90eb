"""Inspections: decode an image, run the graph, decide, store the record, and only then return it.

Each inspection runs on one thread from start to end, because every hand-over between threads adds latency that a single
camera would notice. The event loop only submits the work. Decoding and deciding are limited to the CPU quota. The graph
runs on the thread of its batcher; meanwhile another thread writes the image to the store.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncGenerator, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import asynccontextmanager, contextmanager
from uuid import UUID

import structlog

from service.deployment.errors import VersionNotActive
from service.deployment.lease import ActiveProduct
from service.deployment.reference_scores import ReferenceScores
from service.deployment.registry import Registry
from service.deployment.shadow import ShadowRunner
from service.errors import DeadlineExceeded, PlumblineError, ShuttingDown
from service.inspection.quality import QualityViolation
from service.inspection.records import PreparedImage
from service.inspection.runtime.threads import cpu_quota
from service.monitoring.clock import Clock
from service.monitoring.metrics import Metrics
from service.monitoring.refusals import RefusalLog
from service.recipes.quality_check import check_quality
from service.serving.admission import Admission, Disconnected, Turn
from service.serving.frozen_camera import FrozenCameraDetector
from service.serving.hooks import InspectionHooks
from service.serving.idempotency import IdempotentRequests, Inspected, fingerprint
from service.serving.image import Image, StatedBuffer
from service.serving.pagination import Page, read_page
from service.serving.records import to_invalid_record, to_record
from service.settings import Settings
from service.store.artefacts.files import WrittenFile
from service.store.completed import Completed
from service.store.errors import StoreUnavailable, UnknownInspection
from service.store.health import StoreHealth
from service.store.idempotency import IdempotencyKey
from service.store.ids import new_id, parse_id
from service.store.inspection_filter import InspectionFilter
from service.store.inspections import get_inspection, list_inspections
from service.store.records import InspectionRecord
from service.store.store import Store

log = structlog.get_logger(__name__)

DISK_THREADS = 4


class InspectionService:
    """Inspects images and reads stored inspections.

    Args:
        settings: Queue limit and deadline.
        registry: Products and the bundles that serve them.
        store: Stores records, images and anomaly maps.
        references: Scores that p-values are relative to.
        shadow: Runs shadow bundles on judged images.
        admission: Limits the inspections in flight.
        metrics: Counts inspections.
        health: Notified if a record cannot be stored.
        clock: The time of day.
        refusals: Logs images that are refused without an HTTP response of their own.
        hooks: Receive every stored inspection.
    """

    def __init__(
        self,
        settings: Settings,
        registry: Registry,
        store: Store,
        *,
        references: ReferenceScores,
        shadow: ShadowRunner,
        admission: Admission,
        metrics: Metrics,
        health: StoreHealth,
        clock: Clock,
        refusals: RefusalLog,
        hooks: InspectionHooks | None = None,
    ) -> None:
        self._queue_deadline_s = settings.queue_deadline_s
        self._registry = registry
        self._store = store
        self._references = references
        self._shadow = shadow
        self._admission = admission
        self._metrics = metrics
        self._health = health
        self._clock = clock
        self._refusals = refusals
        self._hooks = hooks or InspectionHooks()
        self._inspections = ThreadPoolExecutor(settings.queue_limit, thread_name_prefix="inspection")
        self._cores = threading.BoundedSemaphore(cpu_quota())
        self._disk = ThreadPoolExecutor(DISK_THREADS, thread_name_prefix="disk")
        self._idempotent = IdempotentRequests(store.engine)
        self._frozen_cameras = FrozenCameraDetector()

    def require_ready(self, product: str) -> None:
        """Check that a product can be inspected now.

        Raises:
            UnknownProduct, ProductNotReady: No bundle serves this product.
        """
        self._registry.get(product)

    def active_version(self, product: str) -> str:
        """Return the version of the bundle that inspects a product now.

        Raises:
            UnknownProduct, ProductNotReady: No bundle serves this product.
        """
        return self._registry.get(product).bundle.version

    def require_usable(self, product: str, buffer: StatedBuffer) -> None:
        """Check what a client states about a camera buffer before the image is received.

        The layout that is used follows from the recipe in force when the image is judged.

        Raises:
            UnknownProduct, ProductNotReady: No bundle serves this product.
            UnknownPixelFormat, PixelMismatch, InvalidRequest: See `PixelSetting.layout`.
        """
        buffer.layout(self._registry.get(product).recipe.recipe)

    def require_open(self) -> None:
        """Check that the service accepts images at all.

        Raises:
            ShuttingDown: The service is stopping.
            StoreUnavailable: Nothing can be stored since the start.
        """
        if self._admission.is_draining:
            raise ShuttingDown()
        if self._store.read_only_reason is not None:
            raise StoreUnavailable(self._store.read_only_reason)

    @contextmanager
    def accept(self, client: str | None) -> Iterator[None]:
        """Accept one request before its body is received. It takes its place in the queue with `turn`, afterwards.

        Errors that mean a lack of capacity are counted, whether they are raised here or inside the block.

        Args:
            client: Identity of the client; None if the images of the request wait for their places one by one.

        Raises:
            QueueFull, ShuttingDown: The request cannot be admitted now.
            StoreUnavailable: Nothing can be stored since the start.
        """
        try:
            self.require_open()
            if client is not None:
                self._admission.check(client)
            yield
        except PlumblineError as error:
            self._metrics.count_shed(error)
            raise

    @asynccontextmanager
    async def turn(self, client: str, disconnected: Disconnected) -> AsyncGenerator[Turn]:
        """Wait for the turn of an accepted request, and count it as in flight until the block ends.

        Args:
            client: Identity of the client.
            disconnected: Ends the wait when the client closes its connection.

        Returns:
            The turn; pass it to `inspect`.

        Raises:
            QueueFull: Another client needs the place.
            DeadlineExceeded: The turn did not come in time.
            InvalidRequest: The client closed the connection.
        """
        since = time.perf_counter()
        async with self._admission.turn(client, self._queue_deadline_s, disconnected, is_accepted=True) as rank:
            yield Turn(since, rank)

    async def inspect(self, product: str, image: Image, turn: Turn) -> InspectionRecord:
        """Inspect one image with the bundle and recipe that are in force when its turn comes.

        The caller must have its turn: see `turn`.

        Args:
            product: Name of the product.
            image: The image.
            turn: The turn of the request.

        Returns:
            The record, which is stored already.

        Raises:
            TooManyPixels, NotAnImage, CorruptImage, BufferSizeMismatch, PixelMismatch: The image cannot be used.
            AreaMismatch: The image does not fit the recipe's polygons.
            UnknownProduct, ProductNotReady: No bundle serves this product.
            QueueFull, DeadlineExceeded, ShuttingDown: The image cannot be inspected now.
            StoreUnavailable: The record could not be stored, so there is no decision.
            IdempotencyKeyUsed: The image's idempotency key belongs to a different request.
        """
        return (await self.inspect_once(product, image, turn)).record

    async def inspect_once(self, product: str, image: Image, turn: Turn) -> Inspected:
        """Inspect one image, unless an earlier request with the same idempotency key did so.

        Args:
            product: Name of the product.
            image: The image.
            turn: The turn of the request.

        Raises:
            IdempotencyKeyUsed: The key belongs to a different request.
            PlumblineError: See `inspect`.
        """
        return await asyncio.wrap_future(self._inspections.submit(self._inspect_once, product, image, turn))

    async def inspect_when_admitted(self, product: str, image: Image, client: str) -> InspectionRecord:
        """Inspect one of several images; wait for admission as long as an inspection may wait for its turn.

        Args:
            product: Name of the product.
            image: The image.
            client: Identity of the client.

        Raises:
            PlumblineError: See `inspect`.
        """
        since = time.perf_counter()
        async with self._admission.wait(self._queue_deadline_s, client) as rank:
            return await self.inspect(product, image, Turn(since, rank))

    def count_refusal(self, error: PlumblineError, request_id: str | None) -> None:
        """Count and log an image or a stream that was refused without an HTTP response of its own.

        Args:
            error: Why it was refused.
            request_id: The id that the problem names.
        """
        self._metrics.count_refusal(error)
        self._refusals.record(error.slug, request_id, status=error.status, reason=error.detail)

    def get(self, inspection_id: str) -> InspectionRecord:
        """Return a stored inspection.

        Raises:
            UnknownInspection: There is no inspection with this id.
            StoreUnavailable: The database cannot be used.
        """
        return get_inspection(self._store.engine, parse_id(inspection_id))

    async def find(self, inspection_id: str) -> InspectionRecord:
        """Return a stored inspection without blocking the event loop.

        Raises:
            UnknownInspection: There is no inspection with this id.
            StoreUnavailable: The database cannot be used.
        """
        return await asyncio.wrap_future(self._disk.submit(self.get, inspection_id))

    def search(self, which: InspectionFilter, before: UUID | None, limit: int) -> Page[InspectionRecord]:
        """Return a page of stored inspections, newest first.

        Args:
            which: Filter.
            before: Return only inspections older than this id.
            limit: Maximum number of inspections.

        Raises:
            UnknownProduct: The filter names a product that does not exist, and no inspection of it is stored.
            StoreUnavailable: The database cannot be used.
        """
        engine = self._store.engine
        if (product := which.product) is not None and not list_inspections(engine, InspectionFilter(product), limit=1):
            self._registry.require_known(product)
        return read_page(lambda count: list_inspections(engine, which, before=before, limit=count), limit)

    def close(self) -> None:
        """Complete the submitted work and stop the threads."""
        self._inspections.shutdown()
        self._disk.shutdown()

    def _inspect_once(self, product: str, image: Image, turn: Turn) -> Inspected:
        if image.key is None:
            return Inspected(self._inspect(product, image, turn))
        key = IdempotencyKey(image.key.principal, image.key.key, fingerprint(product, image))
        limit_s = self._queue_deadline_s
        return self._idempotent.run(
            key, lambda: self._inspect(product, image, turn, key), turn.since + limit_s, limit_s
        )

    def _inspect(self, product: str, image: Image, turn: Turn, key: IdempotencyKey | None = None) -> InspectionRecord:
        image = self._hooks.complete(product, image)
        # The lease keeps this bundle loaded until the record is stored, even if another one is activated meanwhile.
        try:
            with self._registry.lease(product) as active:
                record = self._judge(active, image, turn, key)
        except StoreUnavailable:
            self._health.report_failure()
            raise
        if record.score is not None:
            self._shadow.submit(record)
        return record

    def _judge(self, active: ActiveProduct, image: Image, turn: Turn, key: IdempotencyKey | None) -> InspectionRecord:
        inspector, recipe = active.inspector, active.recipe.recipe
        if image.version not in {None, active.bundle.version}:
            raise VersionNotActive(active.bundle.manifest.product, str(image.version), active.bundle.version)
        layout = image.buffer.layout(recipe)
        with self._core_before_deadline(turn):
            # A verdict that cannot be stored is not computed.
            self._store.require_writable()
            prepared = inspector.read(image.data, recipe.pixels.rules(layout))
        # The batcher checks the deadline for its own queue only.
        self._check_deadline(turn)
        product, station = active.bundle.manifest.product, image.part.station
        with self._frozen_cameras.checking(product, recipe, station, prepared.sha256) as frozen:
            violations = check_quality(prepared, inspector.quality_limits, recipe) + frozen
            with self._files(prepared.media_type) as inspection_id:
                if violations:
                    return self._store_invalid(inspection_id, active, prepared, violations, image, turn, key)
                return self._store_judged(inspection_id, active, prepared, image, turn, key)

    def _store_judged(
        self,
        inspection_id: UUID,
        active: ActiveProduct,
        prepared: PreparedImage,
        image: Image,
        turn: Turn,
        key: IdempotencyKey | None,
    ) -> InspectionRecord:
        inspector, recipe, data = active.inspector, active.recipe.recipe, image.data
        created_at, reference = self._clock.now(), self._references.scores(active.bundle, recipe)
        # The image is written while the graph runs.
        writing = self._disk.submit(self._write_image, inspection_id, prepared.media_type, data)
        anomaly_map: WrittenFile | None = None
        try:
            result = inspector.infer(prepared, turn.rank)
            with self._cores:
                judged = inspector.finish(prepared, result, recipe.criteria, reference)
            record = to_record(inspection_id, created_at, active, judged, reference, data, image.part)
            store_started = time.perf_counter()
            anomaly_map = self._store.files.write_map(inspection_id, judged.anomaly_map)
            # Before the record is committed, both files are complete and the image is synced to disk. The map is synced
            # in the background: after a power failure it can be computed again from image and bundle.
            writing.result()
            self._disk.submit(self._sync_map, anomaly_map)
        except BaseException:
            wait([writing])
            if anomaly_map is not None:
                anomaly_map.close()
            raise
        self._store.writer.write(record, key)
        timings = {**judged.timings, "store": time.perf_counter() - store_started}
        duration_s = time.perf_counter() - turn.since
        self._metrics.count_inspection(
            record.product,
            record.decision,
            score=judged.score,
            p_value=judged.p_value,
            duration_s=duration_s,
            timings_s=timings,
            batch_size=record.batch_size,
        )
        self._hooks.report(Completed(record, image.arrived, turn.since, duration_s, timings, time.time_ns()))
        if judged.decision is not judged.by_score:
            self._metrics.softened.labels(record.product).inc()
        return record

    @contextmanager
    def _core_before_deadline(self, turn: Turn) -> Iterator[None]:
        """Wait for a core until the deadline; an image that exceeded it is not decoded."""
        remaining_s = self._queue_deadline_s - (time.perf_counter() - turn.since)
        if not self._cores.acquire(timeout=max(0.0, remaining_s)):
            raise DeadlineExceeded(self._queue_deadline_s, 1.0)
        try:
            self._check_deadline(turn)
            yield
        finally:
            self._cores.release()

    def _check_deadline(self, turn: Turn) -> None:
        if time.perf_counter() - turn.since > self._queue_deadline_s:
            raise DeadlineExceeded(self._queue_deadline_s, 1.0)

    def _store_invalid(
        self,
        inspection_id: UUID,
        active: ActiveProduct,
        prepared: PreparedImage,
        violations: tuple[QualityViolation, ...],
        image: Image,
        turn: Turn,
        key: IdempotencyKey | None,
    ) -> InspectionRecord:
        """Store an image that the quality check rejected: it shows what is wrong with illumination, lens or camera."""
        reference = self._references.scores(active.bundle, active.recipe.recipe)
        record = to_invalid_record(
            inspection_id, self._clock.now(), active, prepared, violations, reference, image.data, image.part
        )
        store_started = time.perf_counter()
        self._write_image(inspection_id, record.image_media_type, image.data)
        self._store.writer.write(record, key)
        timings = {stage: milliseconds / 1000 for stage, milliseconds in record.timings_ms.items()}
        timings["store"] = time.perf_counter() - store_started
        reasons = {violation["reason"] for violation in record.objections or []}
        duration_s = time.perf_counter() - turn.since
        self._metrics.count_invalid(record.product, reasons, duration_s, timings)
        self._hooks.report(Completed(record, image.arrived, turn.since, duration_s, timings, time.time_ns()))
        return record

    def _write_image(self, inspection_id: UUID, media_type: str, data: bytes) -> None:
        self._store.files.write_image(inspection_id, media_type, data).sync()

    def _sync_map(self, anomaly_map: WrittenFile) -> None:
        try:
            anomaly_map.sync()
        except StoreUnavailable as error:
            self._metrics.map_sync_failures.inc()
            self._health.report_failure()
            log.warning("anomaly map may be lost in a power failure", file=anomaly_map.name, reason=error.reason)

    @contextmanager
    def _files(self, media_type: str) -> Iterator[UUID]:
        """Yield a new id for the block that stores an inspection, and remove the files of the id if the block fails.

        Clients retry, so a failed attempt must not leave orphaned files.
        """
        inspection_id = new_id()
        try:
            yield inspection_id
        except StoreUnavailable:
            # If the database does not respond at all, it may have committed the record; then the files stay.
            with contextlib.suppress(StoreUnavailable):
                try:
                    get_inspection(self._store.engine, inspection_id)
                except UnknownInspection:
                    self._store.files.remove(inspection_id, media_type)
            raise
        except BaseException:
            self._store.files.remove(inspection_id, media_type)
            raise
