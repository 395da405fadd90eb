"""Remove old records of inspections in the background, as the setting `record_days` demands.

A run goes through all products once, in small transactions with pauses between them, so that inspections are not
delayed. It may take several sweeps of `RetentionSweeper`, which calls it after images and maps were removed. One that
was interrupted is repeated: what it removed is gone, and the rest is found again.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import get_args

import structlog

from service.monitoring.clock import Clock
from service.monitoring.storage_metrics import StorageMetrics
from service.record_days import KeptReason, parse_record_days
from service.store.record_removal.pieces import (
    PAUSE_FACTOR,
    has_record_between,
    old_records,
    oldest_record,
    remove_piece,
    stored_products,
)
from service.store.record_removal.state import StatedRule, audit_removals, state_rule
from service.store.store import Store

log = structlog.get_logger(__name__)

RUN_INTERVAL = timedelta(days=1)
"""Time from the end of a run to the next one."""
GRACE = timedelta(hours=24)
"""Time for which another value of the setting removes nothing, so that a wrong one can be corrected."""
SWEEP_S = 10.0
"""Seconds of one sweep, after which images and maps have their turn."""
BUSY_SWEEP_S = 1.0
"""The same while images and maps are left that have to be removed."""
RETRY_S = 3600.0
"""Seconds until the next run if the clock is not plausible."""
_RECENT = timedelta(days=1)


class RecordRemover:
    """Removes old records of inspections. Its methods must be called by one thread at a time.

    Args:
        store: The inspections.
        record_days: The setting `record_days`.
        metrics: Counts what is removed.
        clock: The time of day.
        grace: Time for which another value of the setting removes nothing.
        interval: Time from the end of a run to the next one.
    """

    def __init__(
        self,
        store: Store,
        record_days: str,
        metrics: StorageMetrics,
        clock: Clock,
        *,
        grace: timedelta = GRACE,
        interval: timedelta = RUN_INTERVAL,
    ) -> None:
        self._store = store
        self._days = parse_record_days(record_days)
        self._text = self._days.text
        self._metrics = metrics
        self._clock = clock
        self._grace = grace
        self._interval_s = self._next_s = interval.total_seconds()
        self._exclusive = None if store.is_shared else store.writer.between_commits
        self._rule: StatedRule | None = None
        self._steps: Iterator[float] | None = None
        self._due = time.monotonic()

    def sweep(self, stop: threading.Event, longest_s: float | None = None) -> bool:
        """Continue a run, or begin one if it is due.

        Args:
            stop: Ends the sweep after the current transaction.
            longest_s: Ends it after this time; None for `SWEEP_S`.

        Returns:
            Whether the run is not complete.

        Raises:
            StoreUnavailable: The database cannot be used. The run begins again with the next sweep.
        """
        if self._steps is None:
            if time.monotonic() < self._due:
                return False
            self._steps = self._run()
        until = time.monotonic() + (SWEEP_S if longest_s is None else longest_s)
        try:
            for pause_s in self._steps:
                if stop.wait(pause_s) or time.monotonic() > until:
                    return not stop.is_set()
        except BaseException:
            self._steps = None
            raise
        self._steps = None
        self._due = time.monotonic() + self._next_s
        return False

    def release(self) -> None:
        """Forget the run, because another process removes now. Its metrics state the records, not those of this one."""
        if self._steps is not None:
            self._steps = None
            self._due = time.monotonic()
        self._metrics.oldest_record.clear()
        self._metrics.records_kept.clear()

    def _run(self) -> Iterator[float]:
        """Go through all products, in steps. Each yields the seconds of the pause after it."""
        engine = self._store.engine
        # Of a run that was interrupted, or of a process that ended.
        audit_removals(engine, self._text, self._exclusive)
        if self._rule is None:
            self._rule = state_rule(engine, self._text, self._exclusive)
        since = self._rule.since
        delay_s = 0.0 if since is None else (since + self._grace - self._clock.now()).total_seconds()
        self._next_s = min(self._interval_s, delay_s) if delay_s > 0 else self._interval_s
        kept: Counter[KeptReason] = Counter()
        removed = 0
        products = stored_products(engine)
        if not products:
            self._next_s = 0.0
        is_due = delay_s <= 0
        if is_due and products and not self._is_time_plausible(products):
            log.warning(
                "old records not removed",
                reason="no inspection of the time before is stored, so the clock may be wrong",
                now=self._clock.now().isoformat(timespec="seconds"),
            )
            is_due, self._next_s = False, min(self._interval_s, RETRY_S)
        self._metrics.oldest_record.clear()  # of products whose last record was removed
        for product in products:
            limit = self._days.limit(product, self._clock.now())
            if limit is not None and is_due:
                started = time.monotonic()
                for piece in old_records(engine, product, limit):
                    kept.update(piece.kept)
                    found = remove_piece(engine, piece, self._exclusive)
                    self._metrics.records_removed.labels(product).inc(found)
                    removed += found
                    yield PAUSE_FACTOR * (time.monotonic() - started)
                    started = time.monotonic()
            oldest = oldest_record(engine, product)
            if oldest is not None:
                self._metrics.oldest_record.labels(product).set(oldest.timestamp())
        for reason in get_args(KeptReason):
            self._metrics.records_kept.labels(reason).set(kept[reason])
        audit_removals(engine, self._text, self._exclusive)
        if removed:
            log.info("old records removed", count=removed, kept=dict(kept), record_days=self._text)

    def _is_time_plausible(self, products: Sequence[str]) -> bool:
        """Return whether inspections are stored from the time before now, though not only from the last hours.

        If the clock was already wrong when the machine started, no jump is noticed, and all records look old. New
        inspections get the wrong time as well, so those of the last day prove nothing.
        """
        shortest = self._days.shortest
        if shortest is None:
            return True
        half, now = timedelta(days=shortest / 2), self._clock.now()
        since, until = now - half, now - min(_RECENT, half / 2)
        return any(has_record_between(self._store.engine, product, since, until) for product in products)
