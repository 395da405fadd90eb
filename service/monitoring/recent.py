"""The inspections of the last minutes: throughput and exact percentiles of their duration.

A histogram yields a percentile only to within the width of a bucket, and percentiles of parts cannot be combined.
Therefore the durations themselves are kept, for a short time and in bounded number.
"""

from __future__ import annotations

import math
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

WINDOW_S = 300.0
MAX_KEPT = 20_000
"""Inspections that are kept. With more in `WINDOW_S`, the window is shorter."""


@dataclass(frozen=True)
class Durations:
    """Exact percentiles of durations in seconds, by the nearest rank. None if there are too few for a percentile.

    Attributes:
        p50_s: Half of the inspections took at most this long.
        p95_s: 95 % of them; None with fewer than 20.
        p99_s: 99 % of them; None with fewer than 100.
        longest_s: The longest one; None without inspections.
    """

    p50_s: float | None
    p95_s: float | None
    p99_s: float | None
    longest_s: float | None

    @classmethod
    def of(cls, durations_s: Sequence[float]) -> Durations:
        """Return the percentiles of some durations."""
        ranked = sorted(durations_s)
        longest = ranked[-1] if ranked else None
        return cls(_percentile(ranked, 50), _percentile(ranked, 95), _percentile(ranked, 99), longest)


@dataclass(frozen=True)
class RecentCounts:
    """Inspections of the window.

    Attributes:
        decisions: Number of inspections by decision.
        per_second: Inspections per second.
        durations: How long they took, from the complete receipt of the image to the stored verdict.
    """

    decisions: Mapping[str, int]
    per_second: float
    durations: Durations


@dataclass(frozen=True)
class RecentReport:
    """The inspections of the last minutes.

    Attributes:
        window_s: Length of the window in seconds.
        total: Those of all products.
        products: Those of each product with inspections in the window.
        shed: Number of images refused for lack of capacity since the start, by reason.
    """

    window_s: float
    total: RecentCounts
    products: Mapping[str, RecentCounts]
    shed: Mapping[str, int]


class RecentInspections:
    """Keeps the durations of the newest inspections.

    Args:
        clock: Returns seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._started = clock()
        self._kept: deque[tuple[float, str, str, float]] = deque(maxlen=MAX_KEPT)
        self._shed: Counter[str] = Counter()
        self._lock = threading.Lock()

    def add(self, product: str, decision: str, duration_s: float) -> None:
        """Add an inspection.

        Args:
            product: The product.
            decision: Its decision.
            duration_s: Seconds from the complete receipt of the image to its stored verdict.
        """
        with self._lock:
            self._kept.append((self._clock(), product, decision, duration_s))

    def count_shed(self, reason: str) -> None:
        """Count an image that was refused for lack of capacity."""
        with self._lock:
            self._shed[reason] += 1

    def report(self) -> RecentReport:
        """Return throughput and durations of the window that ends now."""
        with self._lock:
            kept, shed, now = list(self._kept), dict(self._shed), self._clock()
        window_s = min(WINDOW_S, now - self._started)
        if len(kept) == MAX_KEPT:
            window_s = min(window_s, now - kept[0][0])
        window_s = max(window_s, 1.0)
        by_product: dict[str, list[tuple[str, float]]] = {}
        for moment, product, decision, duration_s in kept:
            if now - moment <= window_s:
                by_product.setdefault(product, []).append((decision, duration_s))
        everything = [one for found in by_product.values() for one in found]
        products = {product: _counts(found, window_s) for product, found in sorted(by_product.items())}
        return RecentReport(window_s, _counts(everything, window_s), products, shed)


def _counts(found: Sequence[tuple[str, float]], window_s: float) -> RecentCounts:
    decisions = Counter(decision for decision, _ in found)
    return RecentCounts(decisions, len(found) / window_s, Durations.of([duration_s for _, duration_s in found]))


def _percentile(ranked: Sequence[float], percent: int) -> float | None:
    """Return the percentile by the nearest rank; None if it would only repeat the largest value."""
    if len(ranked) * (100 - percent) < 100:
        return None
    return ranked[math.ceil(len(ranked) * percent / 100) - 1]
