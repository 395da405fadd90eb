"""Health of the store: the result of the newest probe, without waiting for the disk."""

from __future__ import annotations

import threading
import time
from typing import Protocol

import structlog

log = structlog.get_logger(__name__)

INTERVAL_S = 0.5
STALE_S = 5.0
_SHORTEST_INTERVAL_S = 0.05


class Probe(Protocol):
    """A function that examines the store. It may block."""

    def __call__(self, *, after_failure: bool = False) -> tuple[str, ...]:
        """Return what prevents verdicts from being stored, one sentence each; empty if nothing does."""


class StoreHealth:
    """Probes the store periodically, on a thread of its own, so that readiness never waits for a disk that hangs.

    Args:
        probe: Examines the store.
        interval_s: Seconds between two probes.
        stale_s: Seconds without a result after which the store counts as not responding.
    """

    def __init__(self, probe: Probe, interval_s: float = INTERVAL_S, stale_s: float = STALE_S) -> None:
        self._probe = probe
        self._interval_s = interval_s
        self._stale_s = stale_s
        self._problems: tuple[str, ...] = ()
        self._probed_at = time.monotonic()
        self._wake = threading.Event()
        self._closed = False
        # A daemon: a probe that hangs with the disk must not keep the process from ending.
        self._thread = threading.Thread(target=self._work, name="store-health", daemon=True)

    @property
    def problems(self) -> tuple[str, ...]:
        """What prevents verdicts from being stored, one sentence each; empty if nothing does."""
        age_s = time.monotonic() - self._probed_at
        if age_s > self._stale_s and not self._closed:
            return (
                f"The data folder, the database or the object store has not responded for {age_s:.0f} s.",
                *self._problems,
            )
        return self._problems

    def start(self) -> None:
        """Probe once and start the thread."""
        self._run(after_failure=False)
        self._thread.start()

    def report_failure(self) -> None:
        """Probe as soon as possible, because a verdict could not be stored."""
        self._wake.set()

    def close(self) -> None:
        """Stop the thread. A probe that hangs is left behind."""
        self._closed = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(self._stale_s)

    def _work(self) -> None:
        while not self._closed:
            is_woken = self._wake.wait(self._interval_s)
            self._wake.clear()
            if not self._closed:
                self._run(after_failure=is_woken)
                time.sleep(_SHORTEST_INTERVAL_S)  # many verdicts may fail at once

    def _run(self, *, after_failure: bool) -> None:
        try:
            found = self._probe(after_failure=after_failure)
        except Exception:  # the thread must survive any error; what cannot be examined is not ready
            log.exception("store cannot be examined")
            found = ("The store cannot be examined: an unexpected error occurred, see the log.",)
        if found != self._problems:
            if found:
                log.error("store not available", reasons=list(found))
            else:
                log.info("store available again")
        self._problems, self._probed_at = found, time.monotonic()
