"""Retention: remove images and anomaly maps in the background as the recipes demand, and then old records.

If several processes share a PostgreSQL database, one of them removes (`Leases`); another one continues when it ends.

The files are removed first and the record of the inspection is marked afterwards, so that the next sweep completes a
removal that was interrupted. The record itself is kept, unless `service.serving.record_removal` removes it for its age.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta

import structlog

from service.monitoring.clock import Clock
from service.monitoring.metrics import Metrics
from service.recipes.recipe import Recipe
from service.recipes.sections import Keep
from service.serving.record_removal import BUSY_SWEEP_S
from service.store.advisory_locks import job_lock
from service.store.errors import RecipeUnreadable, StoreUnavailable
from service.store.idempotency import remove_keys
from service.store.leases import Leases
from service.store.recipes import current_recipe
from service.store.record_removal.pieces import stored_products
from service.store.records import Artefacts
from service.store.retention import mark_removed, past_retention, past_size
from service.store.store import Store

log = structlog.get_logger(__name__)

# Maximum number of inspections per product and decision in one sweep. If it is reached, the next sweep follows soon.
SWEEP_LIMIT = 500
_NEXT_SWEEP_S = 1.0
# Inspections whose files are deleted with one request, if the file system can do that. Each has two files.
_TOGETHER = 100
# Seconds between two attempts to become the process that removes.
LEASE_S = 3.0
_JOB = "retention"
# Files are not removed for their age in this time after the clock jumped. A clock that is wrong for a moment must not
# remove files that cannot be restored.
CLOCK_SETTLE_S = 3600.0


class RetentionSweeper:
    """Removes images and maps periodically, on a thread of its own.

    Args:
        store: The store to sweep.
        products: Returns the names of the products that have bundles; called at every sweep. Products of stored
            inspections are swept as well.
        metrics: Counts removals and failures.
        interval_s: Seconds between sweeps. Files younger than this are kept, so that a client can read the files of a
            recent inspection.
        limit: Maximum number of inspections per product and decision in one sweep.
        clock: The time of day.
        key_age: Age at which idempotency keys are removed.
        others: Further removals, each called at every sweep. They may raise `StoreUnavailable`.
        followers: Called instead of a sweep while another process removes. They may raise `StoreUnavailable`.
        records: Removes old records at the end of every sweep, until the event is set or for the seconds that are
            given, None for its own limit; returns whether more may be left. It may raise `StoreUnavailable`.
    """

    def __init__(
        self,
        store: Store,
        products: Callable[[], Iterable[str]],
        metrics: Metrics,
        interval_s: float,
        limit: int = SWEEP_LIMIT,
        clock: Clock | None = None,
        key_age: timedelta = timedelta(days=1),
        others: Sequence[Callable[[], None]] = (),
        followers: Sequence[Callable[[], None]] = (),
        records: Callable[[threading.Event, float | None], bool] = lambda _stop, _longest_s: False,
    ) -> None:
        self.store = store
        self.limit = limit
        self._clock = clock or Clock()
        self._products = products
        self._metrics = metrics
        self._interval_s = interval_s
        self._key_age = key_age
        self._others = others
        self._followers = followers
        self._records = records
        self._leases = Leases(store.engine, job_lock)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="retention", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def close(self) -> None:
        """Complete the current removal and stop the thread."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def sweep(self) -> bool:
        """Remove the images and maps that the recipes in force no longer keep, and old records.

        Returns:
            Whether the limit of one sweep was reached, so that more may be left.

        Raises:
            StoreUnavailable: The database cannot be used.
        """
        if self._is_clock_settled:
            remove_keys(self.store.engine, self._clock.now() - self._key_age)
            for other in self._others:
                other()
        is_more = False
        for product in sorted({*self._products(), *stored_products(self.store.engine)}):
            try:
                revision = current_recipe(self.store.engine, product)
            except RecipeUnreadable as error:  # of this product only; the others are swept
                log.warning("retention postponed", product=product, reason=error.detail)
                continue
            if revision is not None:
                is_more |= self._sweep_product(product, revision.recipe)
            if self._stop.is_set():
                return False
        # Afterwards, because a record is kept as long as its files are.
        longest_s = BUSY_SWEEP_S if is_more else None
        return is_more | (self._is_clock_settled and self._records(self._stop, longest_s))

    @property
    def _is_clock_settled(self) -> bool:
        since_jump_s = self._clock.seconds_since_jump()
        return since_jump_s is None or since_jump_s > CLOCK_SETTLE_S

    def _sweep_product(self, product: str, recipe: Recipe) -> bool:
        """Remove what the recipe no longer keeps; return whether the limit of one sweep was reached."""
        is_more = False
        for decision, keep in recipe.retention.items():
            # Files that could not be removed do not count: an immediate retry would fail again.
            is_more |= self._remove(product, decision, self._past_limits(product, decision, keep)) == self.limit
        if is_more or self._stop.is_set():
            # What the other limits have left to remove must not push out other files for its size.
            return is_more
        by_decision: dict[str, list[Artefacts]] = {}
        protected = self._recent()
        for name, item in past_size(self.store.engine, product, recipe.storage, protected=protected, limit=self.limit):
            by_decision.setdefault(name, []).append(item)
        return sum(self._remove(product, *group) for group in by_decision.items()) == self.limit

    def _recent(self) -> tuple[datetime, datetime]:
        """Return the period whose files are kept, because clients may still read them."""
        now, interval = self._clock.now(), timedelta(seconds=self._interval_s)
        return now - interval, now + interval

    def _past_limits(self, product: str, decision: str, keep: Keep) -> Sequence[Artefacts]:
        """Return the artefacts of a decision that are too old, or too many."""
        now = self._clock.now()
        return past_retention(
            self.store.engine,
            product,
            decision,
            older_than=now - timedelta(days=keep.days) if keep.days is not None and self._is_clock_settled else None,
            beyond=keep.count,
            protected=self._recent(),
            limit=self.limit,
        )

    def _remove(self, product: str, decision: str, found: Sequence[Artefacts]) -> int:
        """Remove artefacts; return how many were removed."""
        removed: list[Artefacts] = []
        for start in range(0, len(found), _TOGETHER):
            if self._stop.is_set():
                break
            removed += self._unlink(found[start : start + _TOGETHER])
        mark_removed(self.store.engine, [item.inspection_id for item in removed], self._clock.now())
        self.store.files.remove_empty_days(item.inspection_id for item in removed)
        self._metrics.storage.artefacts_removed.labels(product, decision).inc(len(removed))
        if removed:
            log.info("images and maps removed", product=product, decision=decision, count=len(removed))
        return len(removed)

    def _unlink(self, items: Sequence[Artefacts]) -> list[Artefacts]:
        """Delete the files of inspections; return those whose files are deleted."""
        failed = self.store.files.unlink_all(items)
        for inspection_id, error in failed.items():
            self._metrics.storage.retention_failures.inc()
            log.error("image or map not removed", inspection=str(inspection_id), reason=error.detail)
        return [item for item in items if item.inspection_id not in failed]

    def _work(self) -> None:
        due = time.monotonic() + self._interval_s
        while not self._stop.wait(min(LEASE_S, max(0.0, due - time.monotonic()))):
            is_leader = _JOB in self._leases.hold([_JOB])
            if time.monotonic() < due:
                continue
            is_more = False
            try:
                if is_leader:
                    is_more = self.sweep()
                else:
                    for follower in self._followers:
                        follower()
            except StoreUnavailable as error:
                log.warning("retention postponed", reason=error.detail)
            except Exception:  # the thread must survive any error, otherwise the disk would fill up
                log.exception("retention failed")
            due = time.monotonic() + (min(_NEXT_SWEEP_S, self._interval_s) if is_more else self._interval_s)
        self._leases.release()
