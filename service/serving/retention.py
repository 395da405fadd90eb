"""Retention: images and maps go when the recipe says so, in the background and a bounded number at a time.

The record of an inspection stays; only its files go. Files first, then the note in the record, so that whatever happens
in between, the next sweep finishes it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta

import structlog

from service.monitoring.metrics import Metrics
from service.recipes.sections import Keep
from service.store.errors import StoreUnavailable
from service.store.recipes import current_recipe
from service.store.records import Artefacts
from service.store.retention import mark_removed, past_retention
from service.store.store import Store

log = structlog.get_logger(__name__)

# Inspections per product and decision in one sweep. A sweep that meets this bound is soon followed by the next one.
SWEEP_LIMIT = 500
_SOON_S = 1.0


class RetentionSweeper:
    """Sweeps again and again, on a thread of its own.

    Args:
        store: What is swept.
        products: Names of the products, asked for at every sweep.
        metrics: What is counted.
        interval_s: Seconds from sweep to sweep. What is younger than this stays, so that nobody who was just answered
            finds the files gone.
        limit: Inspections per product and decision in one sweep.
    """

    def __init__(
        self,
        store: Store,
        products: Callable[[], Iterable[str]],
        metrics: Metrics,
        interval_s: float,
        limit: int = SWEEP_LIMIT,
    ) -> None:
        self.store = store
        self.limit = limit
        self._products = products
        self._metrics = metrics
        self._interval_s = interval_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="retention", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Finish the files at hand and end the thread."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def sweep(self) -> bool:
        """Remove what the recipes in force let go.

        Returns:
            Whether there is more of it than one sweep removes.

        Raises:
            StoreUnavailable: The database does not answer.
        """
        is_more = False
        for product in sorted(self._products()):
            revision = current_recipe(self.store.engine, product)
            retention = {} if revision is None else revision.recipe.retention
            for decision, keep in retention.items():
                if self._stop.is_set():
                    return False
                is_more |= self._remove(product, decision, keep)
        return is_more

    def _remove(self, product: str, decision: str, keep: Keep) -> bool:
        now = datetime.now(UTC)
        found = past_retention(
            self.store.engine,
            product,
            decision,
            older_than=None if keep.days is None else now - timedelta(days=keep.days),
            beyond=keep.count,
            not_after=now - timedelta(seconds=self._interval_s),
            limit=self.limit,
        )
        removed = [item for item in found if not self._stop.is_set() and self._unlink(item)]
        mark_removed(self.store.engine, [item.inspection_id for item in removed], now)
        self.store.files.remove_empty_days(item.inspection_id for item in removed)
        self._metrics.artefacts_removed.labels(product, decision).inc(len(removed))
        # Those that could not be removed will not be removable in a second, either.
        return len(removed) == self.limit

    def _unlink(self, item: Artefacts) -> bool:
        try:
            self.store.files.unlink(item.inspection_id, item.media_type)
        except StoreUnavailable as error:
            self._metrics.retention_failures.inc()
            log.error("image or map not removed", inspection=str(item.inspection_id), reason=error.detail)
            return False
        return True

    def _work(self) -> None:
        pause_s = self._interval_s
        while not self._stop.wait(pause_s):
            is_more = False
            try:
                is_more = self.sweep()
            except StoreUnavailable as error:
                log.warning("retention postponed", reason=error.detail)
            except Exception:  # whatever it is, the disk must not fill up because a thread ended
                log.exception("retention failed")
            pause_s = min(_SOON_S, self._interval_s) if is_more else self._interval_s
