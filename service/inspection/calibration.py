"""Conformal thresholds and p-values from good images alone.

The held-out good images and the next good part are assumed exchangeable: taken under the same conditions, in no
particular order. Then, with n calibration scores, rejecting what scores above their `ceil((n + 1)(1 - alpha))`-th
smallest rejects at most a share alpha of good parts (split conformal prediction; Vovk, Gammerman & Shafer 2005,
section 2.2). No assumption on the distribution of scores is made.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

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
        needed = math.ceil(1 / Fraction(repr(alpha))) - 1
        raise ValueError(
            f"{n} good images can certify a false-reject rate of {smallest_alpha(n):.4g} at best, not {alpha:g}; "
            f"{needed} would be needed"
        )
    rank = n + 1 - rejected
    return CertifiedThreshold(scores[rank - 1], alpha, rank, n)


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
