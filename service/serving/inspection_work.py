"""One inspection: decode the image, run the graph, decide, store the record, and only then return it.

Each inspection runs on one thread from start to end, because every hand-over between threads adds latency that a single
camera would notice. Decoding and deciding are limited to the CPU quota. While an image is decoded, another thread
hashes it and writes it to the store: see `image_storing`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import structlog

from service.deployment.errors import VersionNotActive
from service.deployment.lease import ActiveProduct
from service.deployment.registry import Registry
from service.deployment.shadow import ShadowRunner
from service.inspection.quality import QualityViolation
from service.inspection.records import PreparedImage
from service.monitoring.clock import Clock
from service.monitoring.metrics import Metrics
from service.recipes.quality_check import check_quality
from service.serving.admission import Turn
from service.serving.frozen_camera import FrozenCameraDetector
from service.serving.hooks import InspectionHooks
from service.serving.idempotency import IdempotentRequests, Inspected, fingerprint
from service.serving.image import Image
from service.serving.image_storing import StoringImage, store_image
from service.serving.judging import Judging
from service.serving.records import to_invalid_record, to_record
from service.store.artefacts.files import WrittenFile
from service.store.completed import Completed
from service.store.errors import StoreUnavailable
from service.store.health import StoreHealth
from service.store.idempotency import IdempotencyKey
from service.store.records import InspectionRecord
from service.store.store import Store

log = structlog.get_logger(__name__)
Defer = Callable[[Callable[[], None]], object]


class InspectionWork:
    """The work of an inspection: decode the image, run the graph, decide, and store the verdict.

    Args:
        registry: Products and the bundles that serve them.
        store: Stores records, images and anomaly maps.
        judging: Decodes and judges images.
        shadow: Runs shadow bundles on judged images.
        metrics: Counts inspections.
        health: Notified if a record cannot be stored.
        clock: The time of day.
        hooks: Receive every stored inspection.
        disk: Threads that write images.
        deadline_s: Seconds from the start of a turn after which an image is not inspected any more.
        require_valid: Called with the client under the lease; raises if the client may not send images any more.
    """

    def __init__(
        self,
        registry: Registry,
        store: Store,
        *,
        judging: Judging,
        shadow: ShadowRunner,
        metrics: Metrics,
        health: StoreHealth,
        clock: Clock,
        hooks: InspectionHooks,
        disk: ThreadPoolExecutor,
        deadline_s: float,
        require_valid: Callable[[str], None],
    ) -> None:
        self._registry = registry
        self._store = store
        self._judging = judging
        self._shadow = shadow
        self._metrics = metrics
        self._health = health
        self._clock = clock
        self._hooks = hooks
        self._disk = disk
        self._queue_deadline_s = deadline_s
        self._require_valid = require_valid
        self._idempotent = IdempotentRequests(store.engine)
        self._frozen_cameras = FrozenCameraDetector()

    def inspect(self, product: str, image: Image, turn: Turn, defer: Defer) -> Inspected:
        """Inspect one image on the calling thread, unless an earlier request with the same key did so.

        Args:
            product: Name of the product.
            image: The image.
            turn: The turn of the request.
            defer: Takes what is left to do when the result has been handed over.

        Raises:
            PlumblineError: See `InspectionService.inspect`.
        """
        if image.key is None:
            return Inspected(self._inspect(product, image, turn, defer))
        key = IdempotencyKey(image.key.principal, image.key.key, fingerprint(product, image))
        limit_s = self._queue_deadline_s
        return self._idempotent.run(
            key, lambda: self._inspect(product, image, turn, defer, key), turn.since + limit_s, limit_s
        )

    def _inspect(
        self, product: str, image: Image, turn: Turn, defer: Defer, key: IdempotencyKey | None = None
    ) -> InspectionRecord:
        image = self._hooks.complete(product, image)
        # The lease keeps this bundle loaded until the record is stored, even if another one is activated meanwhile.
        try:
            remaining_s = turn.remaining_s(self._queue_deadline_s)
            with self._registry.lease(product, remaining_s, is_hit=turn.is_hit) as active:
                self._require_valid(turn.client)
                record = self._judge(active, image, turn, defer, key)
        except StoreUnavailable:
            self._health.report_failure()
            raise
        if record.score is not None:
            self._shadow.submit(record)
        return record

    def _judge(
        self, active: ActiveProduct, image: Image, turn: Turn, defer: Defer, key: IdempotencyKey | None
    ) -> InspectionRecord:
        recipe = active.recipe.recipe
        if image.version not in {None, active.bundle.version}:
            raise VersionNotActive(active.bundle.manifest.product, str(image.version), active.bundle.version)
        with store_image(self._store, self._disk, image.data) as storing:
            # A verdict that cannot be stored is not computed.
            prepared = self._judging.read(active, image, turn, storing)
            product, station = active.bundle.manifest.product, image.part.station
            with self._frozen_cameras.checking(product, recipe, station, prepared.sha256) as frozen:
                violations = check_quality(prepared, active.rules.quality_limits, recipe) + frozen
                if violations:
                    return self._store_invalid(storing, active, prepared, violations, image, turn, key)
                return self._store_judged(storing, active, prepared, image, turn, defer, key)

    def _store_judged(
        self,
        storing: StoringImage,
        active: ActiveProduct,
        prepared: PreparedImage,
        image: Image,
        turn: Turn,
        defer: Defer,
        key: IdempotencyKey | None,
    ) -> InspectionRecord:
        data, created_at, reference = image.data, self._clock.now(), self._judging.reference(active)
        anomaly_map: WrittenFile | None = None
        try:
            judged = self._judging.judge(active, prepared, turn.rank, reference)
            is_suspended = self._judging.is_suspended(active, image.part.station)
            record = to_record(
                storing.id, created_at, active, judged, reference, data, image.part, is_suspended=is_suspended
            )
            store_started = time.perf_counter()
            anomaly_map = self._store.files.write_map(storing.id, judged.anomaly_map)
            # Before the record is committed, both files are complete and the image is synced to disk. The map is synced
            # afterwards: after a power failure it can be computed again from image and bundle. At the same time, the
            # commit would wait for it, because both wait for the journal of the file system.
            storing.finish()
            self._store.writer.write(record, key)
        except BaseException:
            if anomaly_map is not None:
                anomaly_map.close()
            raise
        defer(partial(self._sync_map, anomaly_map))
        timings = {**judged.timings, "store": time.perf_counter() - store_started}
        duration_s = time.perf_counter() - turn.since
        self._metrics.count_inspection(
            record.product,
            record.decision,
            station=record.station,
            quality=prepared.quality,
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

    def _store_invalid(
        self,
        storing: StoringImage,
        active: ActiveProduct,
        prepared: PreparedImage,
        violations: tuple[QualityViolation, ...],
        image: Image,
        turn: Turn,
        key: IdempotencyKey | None,
    ) -> InspectionRecord:
        """Store an image that the quality check rejected: it shows what is wrong with illumination, lens or camera."""
        reference = self._judging.reference(active)
        record = to_invalid_record(
            storing.id,
            self._clock.now(),
            active,
            prepared,
            violations,
            reference,
            image.data,
            image.part,
            is_suspended=self._judging.is_suspended(active, image.part.station),
        )
        store_started = time.perf_counter()
        storing.finish()
        self._store.writer.write(record, key)
        timings = {stage: milliseconds / 1000 for stage, milliseconds in record.timings_ms.items()}
        timings["store"] = time.perf_counter() - store_started
        reasons = {violation["reason"] for violation in record.objections or []}
        duration_s = time.perf_counter() - turn.since
        self._metrics.count_invalid(
            record.product,
            reasons,
            station=record.station,
            quality=prepared.quality,
            duration_s=duration_s,
            timings_s=timings,
        )
        self._hooks.report(Completed(record, image.arrived, turn.since, duration_s, timings, time.time_ns()))
        return record

    def _sync_map(self, anomaly_map: WrittenFile) -> None:
        try:
            anomaly_map.sync()
        except StoreUnavailable as error:
            self._metrics.map_sync_failures.inc()
            self._health.report_failure()
            log.warning("anomaly map may be lost in a power failure", file=anomaly_map.name, reason=error.reason)
