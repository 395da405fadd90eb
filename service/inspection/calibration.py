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
    # Exact arithmetic on the number as it was written: in floating point (n + 1)(1 - alpha) may land just above an
    # integer and cost a rank.
    rank = math.ceil((n + 1) * (1 - _exact(alpha, n)))
    if rank > n:
        needed = math.ceil(1 / _exact(alpha, n)) - 1
        raise ValueError(
            f"{n} good images can certify a false-reject rate of {smallest_alpha(n):.4g} at best, not {alpha:g}; "
            f"{needed} would be needed"
        )
    return CertifiedThreshold(scores[rank - 1], alpha, rank, n)


def certify_nearest(scores: Sequence[float], alpha: float) -> CertifiedThreshold:
    """As `certify`, but where n is too small for alpha, the smallest alpha that n can certify is taken instead."""
    return certify(scores, max(alpha, smallest_alpha(len(scores))))


def _exact(alpha: float, n: int) -> Fraction:
    # 1 / (n + 1) itself is asked for often and has no short decimal form.
    return Fraction(1, n + 1) if alpha == smallest_alpha(n) else Fraction(repr(alpha))
