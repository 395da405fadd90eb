"""The thread that monitors drift: reads stored inspections in the order of their ids and keeps the streams.

It reads what is committed, so inspections wait for nothing. If several processes share a PostgreSQL database, one of
them monitors (`Leases`), and all read the open alarms about every second. The streams and the position up to which they
are computed are stored in one transaction, so that every inspection is counted once, whichever process continues.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial

import structlog

from service.deployment.reference_scores import ReferenceScores
from service.deployment.registry import Registry
from service.monitoring.clock import Clock
from service.monitoring.drift.records import KINDS, Limits
from service.monitoring.metrics import Metrics
from service.serving.drift.guarantees import Guarantees
from service.serving.drift.tracker import DriftTracker
from service.store.advisory_locks import job_lock
from service.store.drift.alarms import open_alarms
from service.store.drift.records import ChangedStream
from service.store.drift.streams import DriftWriter, read_evidence, read_position
from service.store.errors import StoreUnavailable
from service.store.leases import Leases
from service.store.store import Store

log = structlog.get_logger(__name__)
POLL_S = 1.0
_STOP_S = 5.0
_JOB = "drift"


class DriftMonitor:
    """Monitors the drift of all products.

    Args:
        limits: When alarms are raised.
        registry: Products and the bundles that serve them.
        store: The inspections, and the state of the monitor.
        references: Scores of good images.
        guarantees: Receives the open alarms.
        metrics: Shows evidence and alarms.
        clock: The time of day.
    """

    def __init__(
        self,
        limits: Limits,
        registry: Registry,
        store: Store,
        references: ReferenceScores,
        guarantees: Guarantees,
        metrics: Metrics,
        clock: Clock,
    ) -> None:
        self.limits = limits
        self._registry = registry
        self._engine = store.engine
        self._guarantees = guarantees
        self._metrics = metrics
        writer = DriftWriter(store.engine, None if store.is_shared else store.writer.between_commits)
        self._make_tracker: Callable[[], DriftTracker] = partial(
            DriftTracker, limits, registry, store.engine, writer, references, guarantees.keys, clock
        )
        self._tracker: DriftTracker | None = None
        self._is_unavailable = False
        self._leases = Leases(store.engine, job_lock)
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="drift", daemon=True)
        metrics.drift.set_limits({kind: limits.evidence(kind) for kind in KINDS})

    def start(self) -> None:
        """Read the open alarms, before the first inspection, and start the thread."""
        try:
            read_position(self._engine)  # at the first start of all, monitoring begins here
            self.refresh()
        except StoreUnavailable as error:
            log.warning("state of drift not read", reason=error.reason)
        self._thread.start()

    def close(self) -> None:
        """Store what was computed and stop the thread. One that waits for the database is left behind."""
        self._stop.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(_STOP_S)

    def wake(self) -> None:
        """Read the state of alarms and recipes soon. Callable by any thread."""
        self._wake.set()

    def refresh(self) -> None:
        """Put the stored alarms in force in this process. Callable by any thread.

        Raises:
            StoreUnavailable: The database cannot be read.
        """
        self._guarantees.replace(open_alarms(self._engine))

    def poll(self) -> None:
        """Count the inspections that were stored since, if this process monitors, and put alarms in force.

        Raises:
            StoreUnavailable: The database cannot be used.
        """
        if _JOB not in self._leases.hold([_JOB]):
            self._tracker = None
        elif not self._registry.loading:
            self._advance()
        self.refresh()
        drift, tracker = self._metrics.drift, self._tracker
        drift.set_evidence(read_evidence(self._engine) if tracker is None else tracker.evidence)
        active = self._registry.active
        drift.set_suspended({name: self._guarantees.of(item.recipe) == "suspended" for name, item in active.items()})

    def flush(self) -> None:
        """Store what was computed since the last time.

        Raises:
            StoreUnavailable: Nothing was stored; it is tried again.
        """
        if self._tracker is None:
            return
        raised = self._tracker.flush()
        if raised is None:
            log.warning("another process monitors drift now")
            self._tracker = None
            return
        self._report(raised)

    def _advance(self) -> None:
        tracker = self._tracker = self._tracker or self._make_tracker()
        tracker.follow()
        is_complete = False
        while not is_complete and self._tracker is tracker and not self._stop.is_set():
            is_complete = not tracker.count_page()
            if tracker.is_due:
                self.flush()

    def _report(self, raised: Sequence[ChangedStream]) -> None:
        for item in raised:
            stream = item.stream
            self._metrics.drift.alarms.labels(item.product, stream.kind).inc()
            log.warning(
                "drift found",
                product=item.product,
                station=stream.station,
                kind=stream.kind,
                direction=stream.direction,
                evidence=round(stream.evidence, 2),
                onset=None if stream.onset is None else stream.onset.isoformat(),
                suspends=item.suspends,
            )

    def _work(self) -> None:
        while not self._stop.is_set():
            self._attempt(self.poll)
            self._wake.wait(POLL_S)
            self._wake.clear()
        self._attempt(self.flush)
        self._leases.release()

    def _attempt(self, work: Callable[[], None]) -> None:
        try:
            work()
            self._is_unavailable = False
        except StoreUnavailable as error:
            if not self._is_unavailable:
                log.warning("drift not monitored", reason=error.reason)
            self._is_unavailable = True
        except Exception:  # the thread must survive any error
            log.exception("drift not monitored")
            # What is stored is consistent; the computation continues from there.
            self._tracker = None
