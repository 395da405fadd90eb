"""Confidence intervals of rates, two-sided with 95 % confidence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from service.inspection.calibration import confident_rate

Interval = tuple[float, float]
Z = 1.959964
_TAIL = 0.025
_DRAWS = 10_000
_SEED = 20_260_301


def rate_interval(count: int, total: int) -> Interval:
    """Return the interval of Clopper & Pearson (1934, Biometrika 26) for `count` among `total`.

    It covers the rate with a probability of at least 95 %. Without any observation it is [0, 1].

    Args:
        count: Number of observed events, 0 to `total`.
        total: Number of observations.
    """
    low = 0.0 if count == 0 else 1 - confident_rate(total, count, 1 - _TAIL)
    high = 1.0 if count == total else confident_rate(total, total - count, 1 - _TAIL)
    return low, high


@dataclass(frozen=True)
class WeightedCount:
    """A binomial count from one cell of a stratified sample.

    Attributes:
        size: Number of parts in the cell.
        count: Observed parts of the kind in question.
        total: Observed parts.
    """

    size: int
    count: int
    total: int

    @property
    def estimate(self) -> float:
        """The Horvitz-Thompson estimate of the number of such parts in the cell; 0 if none was observed."""
        return self.size * self.count / self.total if self.total else 0.0


def melded_share_interval(counted: Sequence[WeightedCount], others: Sequence[WeightedCount]) -> Interval:
    """Return the interval of A / (A + B), A and B being sums of size times rate over independent cells.

    Melding (Fay, Proschan & Brittain 2015, Biometrics 71) combines the Clopper-Pearson limits of several rates: the
    upper limit of a function that increases with some rates and decreases with the others is a quantile of the function
    of random values, drawn from the upper confidence distribution Beta(count + 1, total - count) of the former and from
    the lower one Beta(count, total - count + 1) of the latter; the lower limit vice versa. Its use for a ratio of
    weighted sums is our own. Unlike the bootstrap, it has a width if no event was observed. It is conservative: with
    many small cells it is wider than necessary. A cell without observations may have any rate.

    Args:
        counted: The cells of A.
        others: The cells of B.
    """
    rng = np.random.default_rng(_SEED)
    high = _shares(_sums(rng, counted, is_upper=True), _sums(rng, others, is_upper=False), 1.0)
    low = _shares(_sums(rng, counted, is_upper=False), _sums(rng, others, is_upper=True), 0.0)
    return float(np.quantile(low, _TAIL)), float(np.quantile(high, 1 - _TAIL))


def _sums(rng: np.random.Generator, cells: Sequence[WeightedCount], *, is_upper: bool) -> npt.NDArray[np.float64]:
    """Return random values of the weighted sum of rates, float64 [_DRAWS]."""
    total = np.zeros(_DRAWS)
    for cell in cells:
        first, second = cell.count + is_upper, cell.total - cell.count + (not is_upper)
        # A Beta distribution with a parameter of 0 is the point 0 or 1.
        rates = rng.beta(first, second, _DRAWS) if first and second else float(first > 0)
        total += cell.size * rates
    return total


def _shares(
    counted: npt.NDArray[np.float64], others: npt.NDArray[np.float64], undefined: float
) -> npt.NDArray[np.float64]:
    total = counted + others
    return np.divide(counted, total, out=np.full_like(total, undefined), where=total > 0)
