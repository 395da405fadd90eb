"""Shadow deployment: judge the images of the active bundle with a second bundle, for comparison only.

An inspection is submitted after its verdict is stored. One thread of low priority judges the submitted images, one
after the other. If it cannot keep up, further inspections are dropped and counted. Only the records are queued: the
image is read from the store when it is judged.
"""

from __future__ import annotations

import threading
from collections import deque

import structlog

from service.deployment.errors import ProductNotReady
from service.deployment.lease import Shadow
from service.deployment.reference_scores import ReferenceScores
from service.deployment.registry import Registry
from service.deployment.rejudge import judge_again
from service.errors import PlumblineError, ShuttingDown
from service.inspection.records import Inspection
from service.inspection.runtime.threads import lower_thread_priority
from service.monitoring.metrics import Metrics
from service.store.errors import StoreUnavailable
from service.store.records import InspectionRecord, ShadowRecord
from service.store.shadows import add_shadow_verdicts
from service.store.store import Store

log = structlog.get_logger(__name__)

QUEUE_LIMIT = 64
LOAD_WAIT_S = 5.0
"""Seconds that the thread waits for a bundle that is not in memory, before it drops the inspection."""
# Verdicts per transaction. With one transaction each, the commits of inspections would wait for the disk more often.
GROUP_SIZE = 32


class ShadowRunner:
    """Runs the shadow deployments of all products.

    Args:
        registry: The registry.
        store: Contains the images, and stores the verdicts.
        references: Reference scores for p-values.
        metrics: Metrics that count the results.
        queue_limit: Maximum number of queued inspections.
    """

    def __init__(
        self,
        registry: Registry,
        store: Store,
        references: ReferenceScores,
        metrics: Metrics,
        queue_limit: int = QUEUE_LIMIT,
    ) -> None:
        self._registry = registry
        self._store = store
        self._references = references
        self._metrics = metrics
        self._limit = queue_limit
        self._queue: deque[InspectionRecord] = deque()
        self._judged: list[tuple[InspectionRecord, ShadowRecord]] = []
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="shadow", daemon=True)
        self._thread.start()

    def submit(self, row: InspectionRecord) -> None:
        """Queue an inspection for the product's shadow deployment, if there is one. Never blocks.

        Args:
            row: The stored inspection. It is dropped and counted if the queue is full.
        """
        if row.product not in self._registry.shadows:
            return
        with self._changed:
            is_queued = len(self._queue) < self._limit and not self._closed
            if is_queued:
                self._queue.append(row)
                self._changed.notify()
        if not is_queued:
            self._metrics.bundles.shadow_runs.labels(row.product, "dropped").inc()

    def close(self) -> None:
        """Finish the current image, discard the queue, and end the thread."""
        with self._changed:
            self._closed = True
            self._queue.clear()
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        lower_thread_priority()
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue or self._closed)
                row = self._queue.popleft() if self._queue else None
                is_last = not self._queue
            if row is not None:
                self._judge(row)
            if self._judged and (is_last or len(self._judged) >= GROUP_SIZE):
                self._write()
            if row is None:
                return

    def _judge(self, row: InspectionRecord) -> None:
        try:
            with self._registry.lease_shadow(row.product, LOAD_WAIT_S) as shadow:
                # The shadow deployment may have ended, or its bundle may have been activated, since the submission.
                if shadow is None or shadow.bundle.digest == row.bundle_digest:
                    return
                judged = judge_again(self._store, self._references, row, shadow.inspector, shadow.recipe)
                record = to_shadow_record(row, shadow, judged)
        except ShuttingDown:
            return
        except Exception as error:  # noqa: BLE001 - a failure of the shadow bundle must not end the thread
            is_late = isinstance(error, ProductNotReady) and error.retry_after_s is not None
            self._metrics.bundles.shadow_runs.labels(row.product, "dropped" if is_late else "failed").inc()
            reason = error.detail if isinstance(error, PlumblineError) else repr(error)
            log.warning("shadow failed", product=row.product, inspection=row.id, reason=reason)
            return
        self._judged.append((row, record))

    def _write(self) -> None:
        judged, self._judged = self._judged, []
        outcome = "judged"
        try:
            add_shadow_verdicts(self._store.engine, [verdict for _, verdict in judged])
        except StoreUnavailable as error:
            outcome = "failed"
            log.warning("shadow verdicts not stored", count=len(judged), reason=error.detail)
        for row, verdict in judged:
            if outcome == "judged":
                self._metrics.bundles.shadow_verdicts.labels(row.product, row.decision, verdict.decision).inc()
            self._metrics.bundles.shadow_runs.labels(row.product, outcome).inc()


def to_shadow_record(row: InspectionRecord, shadow: Shadow, judged: Inspection) -> ShadowRecord:
    """Return the record of a shadow bundle's verdict."""
    return ShadowRecord(
        inspection_id=row.id,
        bundle_digest=shadow.bundle.digest,
        bundle_version=shadow.bundle.version,
        decision=judged.decision.value,
        score=judged.score,
        p_value=judged.p_value,
        fail_threshold=judged.thresholds.fail,
        review_threshold=judged.thresholds.review,
        provider=shadow.inspector.provider,
        infer_ms=round(judged.timings["infer"] * 1000, 3),
    )
