"""Running shadows: beside the line, behind the answer, and never in its way.

An image is offered when its verdict is on the disk and about to be answered. One thread, which gives way to all
others, judges what was offered, one image after the other; what it cannot keep up with is let go and counted. What
waits is only the inspection's record: the image is read from the store when its turn comes.
"""

from __future__ import annotations

import threading
from collections import deque

import structlog

from service.deployment.lease import Shadow
from service.deployment.reference_scores import References
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
# Written together: a transaction each would make the line's own commits wait for the disk.
WRITE_TOGETHER = 32


class ShadowRunner:
    """Lets shadows judge what was decided.

    Args:
        registry: Who is a shadow.
        store: Has the images and takes the verdicts.
        references: Has the scores that p-values are taken against.
        metrics: What is counted.
        queue_limit: Inspections that may wait for a shadow.
    """

    def __init__(
        self,
        registry: Registry,
        store: Store,
        references: References,
        metrics: Metrics,
        queue_limit: int = QUEUE_LIMIT,
    ) -> None:
        self._registry = registry
        self._store = store
        self._references = references
        self._metrics = metrics
        self._limit = queue_limit
        self._waiting: deque[InspectionRecord] = deque()
        self._judged: list[tuple[str, ShadowRecord]] = []
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="shadow", daemon=True)
        self._thread.start()

    def offer(self, row: InspectionRecord) -> None:
        """Have the product's shadow, if it has one, judge an inspection's image when there is time. Never waits."""
        if row.product not in self._registry.shadows:
            return
        with self._changed:
            is_taken = len(self._waiting) < self._limit and not self._closed
            if is_taken:
                self._waiting.append(row)
                self._changed.notify()
        if not is_taken:
            self._metrics.shadow_runs.labels(row.product, "dropped").inc()

    def close(self) -> None:
        """Finish the image in work, let the others go, and end the thread."""
        with self._changed:
            self._closed = True
            self._waiting.clear()
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        lower_thread_priority()
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                row = self._waiting.popleft() if self._waiting else None
                is_last = not self._waiting
            if row is not None:
                self._judge(row)
            if self._judged and (is_last or len(self._judged) >= WRITE_TOGETHER):
                self._write()
            if row is None:
                return

    def _judge(self, row: InspectionRecord) -> None:
        with self._registry.lease_shadow(row.product) as shadow:
            # It may have been stopped since the image was offered, or it decides itself by now.
            if shadow is None or shadow.bundle.digest == row.bundle_digest:
                return
            try:
                judged = judge_again(self._store, self._references, row, shadow.inspector, shadow.recipe)
            except ShuttingDown:
                return
            except Exception as error:  # noqa: BLE001 - a shadow that fails at an image is news, no failure of the line
                self._metrics.shadow_runs.labels(row.product, "failed").inc()
                reason = error.detail if isinstance(error, PlumblineError) else repr(error)
                log.warning("shadow failed", product=row.product, inspection=row.id, reason=reason)
                return
            self._judged.append((row.product, to_shadow_row(row, shadow, judged)))

    def _write(self) -> None:
        judged, self._judged = self._judged, []
        outcome = "judged"
        try:
            add_shadow_verdicts(self._store.engine, [row for _, row in judged])
        except StoreUnavailable as error:
            outcome = "failed"
            log.warning("shadow's verdicts not stored", count=len(judged), reason=error.detail)
        for product, _ in judged:
            self._metrics.shadow_runs.labels(product, outcome).inc()


def to_shadow_row(row: InspectionRecord, shadow: Shadow, judged: Inspection) -> ShadowRecord:
    """What is remembered of a shadow's verdict."""
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
