"""Conformal thresholds and p-values from good images alone.

The held-out good images and the next good part are assumed to be exchangeable: taken under the same conditions, in no
particular order. Then, with n calibration scores, rejecting scores above their `ceil((n + 1)(1 - alpha))`-th smallest
rejects at most a share alpha of good parts (split conformal prediction; Vovk, Gammerman & Shafer 2005, section 2.2). No
distribution of scores is assumed.

This bound holds on average over calibrations. `confident_rate` gives a bound for the calibration that was made: it
holds for all but a stated share of calibrations (Vovk 2012, "Conditional validity of inductive conformal predictors").
docs/guarantee.md explains the difference and shows both in simulations.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from service.bundle.card import CalibrationCard, GroupShift

DEFAULT_FAIL_ALPHA = 0.01
DEFAULT_REVIEW_ALPHA = 0.05
# Confidence of the bound for the calibration at hand, wherever a false-reject rate is shown.
CONFIDENCE = 0.95
# Below this number of calibration images a note explains the bound. With 30 images a threshold at the highest score
# rejects at most 9.5 % of good parts with 95 % confidence.
MIN_IMAGES = 30


@dataclass(frozen=True)
class CertifiedThreshold:
    """A threshold and the largest share of good parts that it rejects.

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
        """Return the share of good parts rejected on average over calibrations: `(n + 1 - rank) / (n + 1)`.

        It is at most `alpha`, and less where n + 1 ranks cannot express `alpha` exactly.
        """
        return (self.n + 1 - self.rank) / (self.n + 1)

    def confident_rate(self, confidence: float) -> float:
        """Return the bound for this calibration; see the function `confident_rate`."""
        return confident_rate(self.n, self.rank, confidence)


@dataclass(frozen=True)
class RateBound:
    """A false-reject rate as it is shown: the bound on average, and the bound for the calibration at hand.

    Attributes:
        rate: The requested rate. On average over calibrations it bounds the share of good parts that fail, if
            `certified`.
        certified: Whether the calibration scores certify `rate`. Otherwise it is extrapolated, and `average` and
            `confident` are those of the highest score, which an extrapolated threshold is never below.
        average: The certified bound on average over calibrations.
        confident: The bound for the calibration at hand.
        confidence: Share of calibrations for which `confident` holds.
        n: Number of calibration scores.
    """

    rate: float
    certified: bool
    average: float
    confident: float
    confidence: float
    n: int

    def __str__(self) -> str:
        """Return the rate as it is shown everywhere, for example "≤ 9.1 % on average, ≤ 26 % with ..."."""
        bounds = (
            f"≤ {percent(self.average)} on average, ≤ {percent(self.confident)} with {100 * self.confidence:g} % "
            f"confidence (n = {self.n})"
        )
        return bounds if self.certified else f"about {percent(self.rate)}, extrapolated; certified: {bounds}"


def percent(share: float) -> str:
    """Return a share in [0, 1] as a percentage, rounded up to two significant digits: a bound stays a bound."""
    if share <= 0:
        return "0 %"
    digits = min(8, max(0, 1 - math.floor(math.log10(100 * share) + 1e-9)))
    # The tolerance keeps a share such as 0.07, whose binary value is slightly larger, at 7 %.
    rounded = math.ceil(100 * share * 10**digits - 1e-6) / 10**digits
    text = f"{rounded:.{digits}f}"
    return f"{text.rstrip('0').rstrip('.') if digits else text} %"


def bound_rate(n: int, alpha: float, confidence: float = CONFIDENCE) -> RateBound:
    """Return the bounds of a threshold for a false-reject rate that n calibration scores were used for.

    Args:
        n: Number of calibration scores, at least 1.
        alpha: The false-reject rate, in (0, 1). If it is smaller than n scores can certify, the threshold is
            extrapolated.
        confidence: Confidence of the bound for the calibration at hand, in (0, 1).
    """
    certified = alpha >= smallest_alpha(n)
    average = alpha if certified else smallest_alpha(n)
    return RateBound(alpha, certified, average, confident_rate(n, _rank(n, average), confidence), confidence, n)


def bound_above(scores: Sequence[float], threshold: float, confidence: float = CONFIDENCE) -> RateBound | None:
    """Return the bounds of a threshold that was not derived from a rate: those of the highest score below it.

    They hold for a threshold that was chosen without regard to the scores. For one that was chosen by them, the bound
    on average holds approximately, and the confidence of the other one is lower than stated.

    Args:
        scores: Calibration scores, ascending, at least one.
        threshold: The threshold; a part is rejected when its score is strictly greater.
        confidence: Confidence of the bound for the calibration at hand, in (0, 1).

    Returns:
        None if every score is above the threshold; then nothing less than all good parts is a bound.
    """
    rate = rate_above(scores, threshold)
    return None if rate is None else bound_rate(len(scores), rate, confidence)


def rate_above(scores: Sequence[float], threshold: float) -> float | None:
    """Return the smallest rate that calibration scores certify for a threshold; None if every score is above it.

    `certify` returns for this rate the highest score that is at most the threshold.

    Args:
        scores: Calibration scores, ascending, at least one.
        threshold: The threshold.
    """
    n, rank = len(scores), bisect.bisect_right(scores, threshold)
    return (n + 1 - rank) / (n + 1) if rank else None


def explain_few_images(n: int) -> str | None:
    """Return a note on the bounds that n calibration images give; None if they are not few."""
    if n >= MIN_IMAGES:
        return None
    bound = bound_rate(n, smallest_alpha(n))
    return (
        f"Few calibration images: with n = {n} the smallest rate is {percent(bound.average)}, and that holds on "
        f"average over calibrations only. For this calibration {percent(bound.confident)} is certain, with "
        f"{100 * bound.confidence:g} % confidence. Use at least {MIN_IMAGES} images; {percent(DEFAULT_FAIL_ALPHA)} "
        f"needs {images_needed(DEFAULT_FAIL_ALPHA)}."
    )


def explain_groups(groups: int) -> str | None:
    """Return a note on what a few capture groups do not cover; None if there are enough.

    Args:
        groups: Number of capture groups that were held out as a whole; 1: all images count as one session.
    """
    if groups < 2:
        return (
            "One capture group: all calibration images count as one session. The rates hold for images taken under "
            "the same conditions. Another lot, day, shift or illumination is not covered: far more good parts may "
            "fail there."
        )
    if (certified := smallest_alpha(groups)) > DEFAULT_REVIEW_ALPHA:
        return (
            f"Few capture groups: the rates hold for parts of groups like these {groups}. For a part of a new group, "
            f"{groups} groups certify {percent(certified)} at best."
        )
    return None


def state_new_group_rate(card: CalibrationCard, alpha: float) -> str | None:
    """Return the bound for parts of a new capture group as it is shown; None if no whole groups were held out.

    Args:
        card: The calibration card.
        alpha: The false-reject rate of the threshold, one that the card's scores can certify.
    """
    if card.sessions < 2:
        return None
    rate = new_group_rate([group.count for group in card.groups], _rank(len(card.scores), alpha))
    return f"≤ {percent(rate)} for a part of a new group, on average over groups ({card.sessions} groups held out)"


def explain_shift(shift: GroupShift) -> str:
    """Return the estimated shift between groups in words."""
    return (
        f"Estimated shift between groups: where a threshold rejects {percent(shift.known_rate)} of good parts of "
        f"known groups, it rejects {percent(shift.new_rate)} of a new group on average and {percent(shift.worst_rate)} "
        f"of the worst one ({shift.worst_group}), by leave-one-group-out scores of a memory bank alone "
        f"({shift.groups} groups, {shift.images} images). This is an estimate, not a bound."
    )


def describe_card(card: CalibrationCard) -> list[str]:
    """Return notes on what a calibration card does not cover; empty if there is nothing to note."""
    shift = None if card.group_shift is None else explain_shift(card.group_shift)
    notes = (explain_few_images(len(card.scores)), explain_groups(card.sessions), shift)
    return [note for note in notes if note is not None]


def new_group_rate(sizes: Sequence[int], rank: int) -> float:
    """Return the bound on the probability that a part of a new capture group is rejected, on average.

    The held-out groups and the new one are assumed to be exchangeable, as are the images within a group; groups may
    differ by any amount. With the highest score as the threshold it is 1 / (G + 1) for G groups. Source: Lee, Barber &
    Willett 2023 (hierarchical conformal prediction), with the largest share of a group that can be above the threshold.

    Args:
        sizes: Number of calibration scores of each group that was held out as a whole, at least one.
        rank: The threshold is the rank-th smallest of all scores, 1-based.

    Returns:
        A number in (0, 1].
    """
    # Every group has the same weight, so scores of the smallest groups count most.
    above, shares = sum(sizes) - rank, 0.0
    for size in sorted(sizes):
        shares += min(above, size) / size
        above -= min(above, size)
    return (1 + shares) / (len(sizes) + 1)


def smallest_alpha(n: int) -> float:
    """Return the smallest false-reject rate that n good images can certify: 1 / (n + 1)."""
    return 1 / (n + 1)


def p_value(scores: Sequence[float], score: float) -> float:
    """Return the p-value of a score: `(1 + #{calibration scores >= score}) / (n + 1)`.

    Args:
        scores: Calibration scores, ascending.
        score: The score of the inspected image.

    Returns:
        A number in [1 / (n + 1), 1]. A small value means that the score is unusual among good parts.
    """
    at_least = len(scores) - bisect.bisect_left(scores, score)
    return (1 + at_least) / (len(scores) + 1)


def certify(scores: Sequence[float], alpha: float) -> CertifiedThreshold:
    """Return the threshold that rejects at most a share alpha of good parts.

    A score is above it exactly when its p-value is at most alpha, so verdict and p-value always agree.

    Args:
        scores: Calibration scores, ascending, at least one.
        alpha: Target false-reject rate in (0, 1).

    Raises:
        ValueError: alpha is outside (0, 1), or smaller than n images can certify.
    """
    n = len(scores)
    if not 0 < alpha < 1:
        raise ValueError(f"the false-reject rate must lie between 0 and 1, got {alpha}")
    rank = _rank(n, alpha)
    if rank > n:
        raise ValueError(
            f"{n} good images can certify a false-reject rate of {smallest_alpha(n):.4g} at best; "
            f"{alpha:g} needs {images_needed(alpha)} images"
        )
    return CertifiedThreshold(scores[rank - 1], alpha, rank, n)


def _rank(n: int, alpha: float) -> int:
    """Return the rank of the threshold for a rate among n scores; n + 1 if n scores cannot certify it."""
    # Number of the n + 1 equally likely ranks of a good part's score that may be rejected. The loop uses the same
    # floating-point comparison as `p_value <= alpha`, so that rounding cannot make the two disagree.
    rejected = math.floor(alpha * (n + 1)) + 1
    while rejected / (n + 1) > alpha:
        rejected -= 1
    return n + 1 - rejected


@lru_cache(maxsize=256)
def confident_rate(n: int, rank: int, confidence: float) -> float:
    """Return the largest share of good parts that a threshold rejects, with a given confidence.

    The share above the rank-th smallest of n scores is itself random, because the n images are a random draw. Without
    ties it has the distribution Beta(n + 1 - rank, rank); with ties it is smaller. The result is the quantile of this
    distribution, which equals the Clopper-Pearson upper bound for n - rank rejects among n.

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
    # The share exceeds q exactly when at most n - rank of n uniform numbers are below q. This binomial tail decreases
    # with q, so bisection finds where it equals 1 - confidence.
    counts = np.arange(n - rank + 1)
    ways = np.array([math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) for k in counts.tolist()])
    low, high = 0.0, 1.0
    while high - low > 1e-15:
        middle = (low + high) / 2
        tail = float(np.exp(ways + counts * math.log(middle) + (n - counts) * math.log1p(-middle)).sum())
        low, high = (middle, high) if tail > 1 - confidence else (low, middle)
    return high


def images_needed(alpha: float) -> int:
    """Return the number of good images that certify a false-reject rate: the smallest n with 1 / (n + 1) <= alpha."""
    return math.ceil(1 / Fraction(repr(alpha))) - 1


def extrapolate(scores: Sequence[float], alpha: float) -> float:
    """Estimate a threshold for a rate that n images cannot certify. It has no guarantee.

    The highest fifth of the scores (at least two) is treated as the start of an exponential tail, which is extrapolated
    to the rate (peaks over threshold with shape zero; Pickands 1975). The share of one fifth is our own choice.

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
        raise ValueError(f"{n} good images are too few to extrapolate the tail of their scores; at least 5 are needed")
    above = max(2, n // 5)
    start = scores[n - above - 1]
    mean_excess = sum(score - start for score in scores[n - above :]) / above
    tail = start + mean_excess * math.log(above / (n + 1) / alpha)
    # The estimate must not be below the observed scores: the images prove that good parts score this high.
    return max(tail, scores[-1])


def certify_nearest(scores: Sequence[float], alpha: float) -> CertifiedThreshold:
    """Return the threshold of `certify`, at the smallest alpha that n scores can certify if alpha is smaller."""
    return certify(scores, max(alpha, smallest_alpha(len(scores))))
