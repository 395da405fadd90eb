"""Distributions of scores and of image quality: those of the calibration images and those of the last hours."""

from __future__ import annotations

import statistics
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import numpy as np

from service.deployment.reference_scores import ReferenceScores
from service.deployment.registry import Registry
from service.monitoring.clock import Clock
from service.store.inspection_filter import InspectionFilter
from service.store.inspections import MEASURED, read_columns
from service.store.store import Store

MAX_INSPECTIONS = 5000
"""Most inspections of a period that are considered, the newest ones."""
BINS = 60
QUALITY_BINS = 30
_HEADROOM = 0.25  # of the range of scores, above the fail threshold
LIMITS: dict[str, tuple[str | None, str | None]] = {
    "brightness": ("min_brightness", "max_brightness"),
    "dark_share": (None, "max_dark_share"),
    "bright_share": (None, "max_bright_share"),
    "sharpness": ("min_sharpness", None),
    "contrast": ("min_contrast", None),
}
"""Names of the lower and the upper limit of each measure of the quality check."""


@dataclass(frozen=True)
class Histogram:
    """Number of values per interval, and outside of all of them."""

    counts: Sequence[int]
    below: int
    above: int

    @property
    def total(self) -> int:
        """Number of values."""
        return sum(self.counts) + self.below + self.above


@dataclass(frozen=True)
class QualityDistribution:
    """A measure of the quality check.

    Attributes:
        measure: Its name.
        edges: Borders of the intervals.
        recent: The values of stored inspections.
        newest: Value of the newest inspection; None without one.
        median: Median of the values; None without one.
        limits: Lower and upper limit in force; None for no limit.
        derived: Lower and upper limit that follow from the calibration images.
    """

    measure: str
    edges: Sequence[float]
    recent: Histogram
    newest: float | None
    median: float | None
    limits: tuple[float | None, float | None]
    derived: tuple[float | None, float | None]


@dataclass(frozen=True)
class Distributions:
    """Distributions of a product.

    Attributes:
        since: Start of the period.
        until: End of the period.
        inspections: Number of inspections that were considered.
        is_cut: Whether the period has more.
        edges: Borders of the intervals of scores.
        reference: The scores that p-values are computed from.
        is_proposal: Whether they are those of a proposal, and not of the calibration card.
        recent: The scores of inspections by the active bundle.
        thresholds: Fail and review threshold in force.
        quality: The measures of the quality check.
    """

    since: datetime
    until: datetime
    inspections: int
    is_cut: bool
    edges: Sequence[float]
    reference: Histogram
    is_proposal: bool
    recent: Histogram
    thresholds: tuple[float, float]
    quality: Sequence[QualityDistribution]


class DistributionService:
    """Computes distributions. All methods block.

    Args:
        registry: Products and the bundles that serve them.
        store: Stored inspections.
        references: Reference scores of recipes.
        clock: The time of day.
    """

    def __init__(self, registry: Registry, store: Store, references: ReferenceScores, clock: Clock) -> None:
        self._registry = registry
        self._store = store
        self._references = references
        self._clock = clock

    def distributions(self, product: str, hours: float, stations: Collection[str] | None = None) -> Distributions:
        """Return the distributions of the last hours.

        Args:
            product: Name of the product.
            hours: Length of the period that ends now.
            stations: Only inspections of these stations; None for all.

        Raises:
            UnknownProduct, ProductNotReady: No bundle serves this product.
            StoreUnavailable: The database cannot be read.
        """
        self._registry.synchronise(product)
        active = self._registry.get(product)
        recipe, until = active.recipe.recipe, self._clock.now()
        since = until - timedelta(hours=hours)
        which = InspectionFilter(product, since=since, permitted_stations=stations)
        rows = read_columns(self._store.engine, MEASURED, which, limit=MAX_INSPECTIONS + 1)
        is_cut, rows = len(rows) > MAX_INSPECTIONS, rows[:MAX_INSPECTIONS]
        digest = active.bundle.digest
        scores = [row["score"] for row in rows if row["score"] is not None and row["bundle_digest"] == digest]
        reference = self._references.scores(active.bundle, recipe)
        edges = _score_edges(reference, scores, recipe.review_threshold, recipe.fail_threshold)
        derived = active.rules.quality_limits
        limits = recipe.quality.combine(derived, recipe.pixels)
        measured: list[dict[str, Any]] = [row["quality"] for row in rows if row["quality"] is not None]
        return Distributions(
            since=since,
            until=until,
            inspections=len(rows),
            is_cut=is_cut,
            edges=edges,
            reference=_histogram(reference, edges),
            is_proposal=recipe.proposal_id is not None,
            recent=_histogram(scores, edges),
            thresholds=(recipe.fail_threshold, recipe.review_threshold),
            quality=[
                _quality(name, [quality[name] for quality in measured], _pair(limits, name), _pair(derived, name))
                for name in LIMITS
            ],
        )


def _pair(limits: object, measure: str) -> tuple[float | None, float | None]:
    low, high = (None if name is None else getattr(limits, name) for name in LIMITS[measure])
    return low, high


def _quality(
    measure: str,
    values: Sequence[float],
    limits: tuple[float | None, float | None],
    derived: tuple[float | None, float | None],
) -> QualityDistribution:
    shown = [*values, *(limit for limit in (*limits, *derived) if limit is not None)]
    edges = _edges(min(shown, default=0.0), max(shown, default=1.0), QUALITY_BINS)
    return QualityDistribution(
        measure=measure,
        edges=edges,
        recent=_histogram(values, edges),
        newest=values[0] if values else None,
        median=statistics.median(values) if values else None,
        limits=limits,
        derived=derived,
    )


def _score_edges(reference: Sequence[float], recent: Sequence[float], review: float, fail: float) -> list[float]:
    """Return the borders of the intervals of scores.

    Defects may score many times as high as good parts. So that both thresholds stay distinguishable, the range ends at
    twice the distance of the fail threshold or of the highest reference score from the lowest score; what is above is
    counted separately.
    """
    low, needed = min(reference[0], review, *recent), max(reference[-1], fail)
    span = needed - low
    return _edges(low, max(needed + _HEADROOM * span, min(needed + span, max(recent, default=needed))), BINS)


def _edges(low: float, high: float, bins: int) -> list[float]:
    if high <= low:
        low, high = low - 0.5 * (abs(low) or 1.0), high + 0.5 * (abs(high) or 1.0)
    return [float(edge) for edge in np.linspace(low, high, bins + 1)]


def _histogram(values: Sequence[float], edges: Sequence[float]) -> Histogram:
    array = np.asarray(values, np.float64)
    counts, _ = np.histogram(array, np.asarray(edges, np.float64))
    return Histogram(counts.tolist(), int((array < edges[0]).sum()), int((array > edges[-1]).sum()))
