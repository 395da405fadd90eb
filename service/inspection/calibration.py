"""Conformal thresholds and p-values from good images alone.

The held-out good images and the next good part are assumed exchangeable: taken under the same conditions, in no
particular order. Then, with n calibration scores, rejecting what scores above their `ceil((n + 1)(1 - alpha))`-th
smallest rejects at most a share alpha of good parts (split conformal prediction; Vovk, Gammerman & Shafer 2005,
section 2.2). No assumption on the distribution of scores is made.

That is a statement about the average over calibrations. `confident_rate` makes the one about the calibration at hand: a
bound that all but a stated share of calibrations keep (Vovk 2012, "Conditional validity of inductive conformal
predictors"). docs/guarantee.md tells the two apart and shows both on simulated lines.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

DEFAULT_FAIL_ALPHA = 0.01
DEFAULT_REVIEW_ALPHA = 0.05


@dataclass(frozen=True)
class CertifiedThreshold:
    """A threshold and the share of good parts that it rejects at most.

    Attributes:
        value: A part is rejected when its score is strictly greater.
        alpha: The guaranteed bound on the false-reject rate, in (0, 1).
        rank: `value` is the rank-th smallest calibration score, 1-based.
        n: Number of calibration scores.
    """

    value: float
    alpha: float
    rank: int
    n: int

    @property
    def expected_rate(self) -> float:
        """The guarantee itself: `(n + 1 - rank) / (n + 1)`, the share of good parts that is rejected on average over
        calibrations. At most `alpha`; below it where n + 1 images have no rank for exactly `alpha`."""
        return (self.n + 1 - self.rank) / (self.n + 1)

    def confident_rate(self, confidence: float) -> float:
        """As the function of this name."""
        return confident_rate(self.n, self.rank, confidence)


def smallest_alpha(n: int) -> float:
    """The smallest false-reject rate that n good images can certify: 1 / (n + 1)."""
    return 1 / (n + 1)


def p_value(scores: Sequence[float], score: float) -> float:
    """How usual a score is among good parts: `(1 + #{calibration scores >= score}) / (n + 1)`.

    Args:
        scores: Calibration scores, ascending.
        score: The score to judge.

    Returns:
        A number in [1 / (n + 1), 1]; small means unusual.
    """
    at_least = len(scores) - bisect.bisect_left(scores, score)
    return (1 + at_least) / (len(scores) + 1)


def certify(scores: Sequence[float], alpha: float) -> CertifiedThreshold:
    """The threshold that rejects at most a share alpha of good parts.

    A score is above it exactly when its p-value is at most alpha, so verdict and p-value never contradict each other.

    Args:
        scores: Calibration scores, ascending, at least one.
        alpha: Target false-reject rate in (0, 1).

    Raises:
        ValueError: alpha is outside (0, 1), or smaller than n images can certify.
    """
    n = len(scores)
    if not 0 < alpha < 1:
        raise ValueError(f"the false-reject rate must lie between 0 and 1, got {alpha}")
    # How many of the n + 1 equally likely ranks of a good part's score may be rejected. Decided by the very comparison
    # of floating-point numbers that `p_value <= alpha` is, so that the two can never disagree by a rounding.
    rejected = math.floor(alpha * (n + 1)) + 1
    while rejected / (n + 1) > alpha:
        rejected -= 1
    if rejected < 1:
        raise ValueError(
            f"{n} good images can certify a false-reject rate of {smallest_alpha(n):.4g} at best, not {alpha:g}; "
            f"{images_needed(alpha)} would be needed"
        )
    rank = n + 1 - rejected
    return CertifiedThreshold(scores[rank - 1], alpha, rank, n)


def confident_rate(n: int, rank: int, confidence: float) -> float:
    """The share of good parts that a threshold rejects at most, for all but a few unlucky draws of calibration images.

    The share that lies above the rank-th smallest of n scores is itself random, because the n images are. Where scores
    have no ties it is distributed as Beta(n + 1 - rank, rank), else it is smaller. This is that distribution's
    quantile, and the same number as the Clopper-Pearson upper bound for n - rank rejects among n.

    Args:
        n: Number of calibration scores.
        rank: The threshold is the rank-th smallest of them, 1-based.
        confidence: Share of draws for which the bound holds, in (0, 1).

    Returns:
        A number in (0, 1], exact to about twelve digits.

    Raises:
        ValueError: rank or confidence is out of its range.
    """
    if not 1 <= rank <= n:
        raise ValueError(f"the rank must lie between 1 and {n}, got {rank}")
    if not 0 < confidence < 1:
        raise ValueError(f"the confidence must lie between 0 and 1, got {confidence}")
    # The share exceeds q exactly when at most n - rank of n uniform numbers fall below q: a binomial tail, which
    # falls as q grows, so halving finds where it is 1 - confidence.
    counts = np.arange(n - rank + 1)
    ways = np.array([math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) for k in counts.tolist()])
    low, high = 0.0, 1.0
    while high - low > 1e-15:
        middle = (low + high) / 2
        tail = float(np.exp(ways + counts * math.log(middle) + (n - counts) * math.log1p(-middle)).sum())
        low, high = (middle, high) if tail > 1 - confidence else (low, middle)
    return high


def images_needed(alpha: float) -> int:
    """How many good images certify a false-reject rate: the smallest n with 1 / (n + 1) <= alpha."""
    return math.ceil(1 / Fraction(repr(alpha))) - 1


def extrapolate(scores: Sequence[float], alpha: float) -> float:
    """A threshold for a rate that so few images cannot certify: a guess, never a guarantee.

    The highest fifth of the scores (at least two) is taken for the beginning of an exponential tail, which is then
    followed to the rate (peaks over threshold with shape zero; Pickands 1975). Our own choice of the share.

    Args:
        scores: Calibration scores, ascending, at least five.
        alpha: Target false-reject rate in (0, 1).

    Raises:
        ValueError: alpha is outside (0, 1), or there are fewer than five scores.
    """
    n = len(scores)
    if not 0 < alpha < 1:
        raise ValueError(f"the false-reject rate must lie between 0 and 1, got {alpha}")
    if n < 5:
        raise ValueError(f"{n} good images are too few to extend the tail of their scores; 5 are needed")
    above = max(2, n // 5)
    start = scores[n - above - 1]
    mean_excess = sum(score - start for score in scores[n - above :]) / above
    tail = start + mean_excess * math.log(above / (n + 1) / alpha)
    # A guess may not be below what was seen: the images prove that good parts score as high as this.
    return max(tail, scores[-1])


def certify_nearest(scores: Sequence[float], alpha: float) -> CertifiedThreshold:
    """As `certify`, but where n is too small for alpha, the smallest alpha that n can certify is taken instead."""
    return certify(scores, max(alpha, smallest_alpha(len(scores))))
