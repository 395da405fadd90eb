"""Bounds of the buckets of histograms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from service.bundle.card import MeasureRange

# Dense in the range of an inspection (1-100 ms), so that a regression of a few milliseconds is visible in a quantile.
STAGE_BUCKETS_S = (
    0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5,
    1, 2.5, 5, 10,
)  # fmt: skip
# The p-values of good parts are spread evenly over (0, 1], so each tenth receives a tenth of them.
P_VALUE_BUCKETS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1)
BATCH_BUCKETS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64)


def score_buckets(scores: list[float]) -> list[float]:
    """Return the upper bounds of a product's score buckets, ascending, around its largest calibration score.

    Args:
        scores: Scores of the held-out good images, ascending.
    """
    middle, top = scores[len(scores) // 2], scores[-1]
    # Without a minimum, identical scores would give identical bounds.
    step = max(top - middle, abs(top) * 1e-3, 1e-9)
    factors = (-2, -1, -0.5, 0, 0.25, 0.5, 0.75, 1, 1.25, 1.5, 2, 3, 4, 6, 8, 12, 20)
    # No negative bounds for non-negative scores: with a negative bound, the exposition omits the sum.
    return _bounds(middle, step, factors, is_signed=scores[0] < 0)


def quality_buckets(measured: MeasureRange) -> list[float]:
    """Return the upper bounds of the buckets of a quality measure, ascending, around the calibration images.

    Args:
        measured: Smallest, median and largest value of the calibration images. None of them is negative.
    """
    # The values of a calibration that was made in one session are close together. Steps of 1 % of the value are enough
    # to see a change of the illumination.
    step = max(measured.high - measured.low, abs(measured.high) * 0.01, 1e-9)
    factors = (-16, -8, -4, -2, -1, -0.5, -0.25, 0, 0.25, 0.5, 0.75, 1, 1.25, 1.5, 2, 3, 5, 9, 17)
    return _bounds(measured.low, step, factors, is_signed=False)


def _bounds(origin: float, step: float, factors: Sequence[float], *, is_signed: bool) -> list[float]:
    bounds = [origin + step * factor for factor in factors]
    return bounds if is_signed else [bound for bound in bounds if bound >= 0]
