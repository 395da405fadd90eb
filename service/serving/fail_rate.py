"""Whether parts fail more often than before, by a test whose rate of false alarms is stated.

For each product, the share of failed parts among the last 20, 100 and 500 judged parts is compared with the up to 2000
parts before them (Fisher's exact test, one-sided). Before 200 parts are known, it is compared with the false-reject
rate that the recipe permits (binomial test). An alarm needs a p-value below 1e-7 and at least 5 failed parts: a few bad
parts raise none, and a line that inspects a part per second has less than about one false alarm per year, if its parts
fail independently of each other.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

WINDOWS = (20, 100, 500)
REFERENCE = 2000
MIN_REFERENCE = 200
MIN_FAILED = 5
P_VALUE = 1e-7 / len(WINDOWS)
# A recipe may permit no false rejects at all, and real defects occur.
_LEAST_RATE = 0.01


@dataclass(frozen=True)
class FailRateJump:
    """An unusually high share of failed parts.

    Attributes:
        failed: Number of failed parts among the newest.
        parts: Number of the newest parts.
        usual_rate: Share of failed parts that they were compared with.
    """

    failed: int
    parts: int
    usual_rate: float


class FailRate:
    """The newest judged parts of one product."""

    def __init__(self) -> None:
        self._failed: deque[bool] = deque(maxlen=REFERENCE + max(WINDOWS))
        self._newest: tuple[float | None, FailRateJump | None] | None = None

    def add(self, decision: str) -> None:
        """Add a part. Invalid images are not parts."""
        if decision != "invalid":
            self._failed.append(decision == "fail")
            self._newest = None

    def jump(self, permitted_rate: float | None) -> FailRateJump | None:
        """Return the jump of the fail rate in the smallest window that shows one; None if there is none.

        Args:
            permitted_rate: The share of good parts that the recipe lets fail; None if it does not state one.
        """
        if self._newest is None or self._newest[0] != permitted_rate:
            parts = list(self._failed)
            found = (_compare(parts, window, permitted_rate) for window in WINDOWS)
            self._newest = permitted_rate, next((jump for jump in found if jump is not None), None)
        return self._newest[1]


def _compare(parts: Sequence[bool], window: int, permitted_rate: float | None) -> FailRateJump | None:
    if len(parts) < window:
        return None
    failed = sum(islice(parts, len(parts) - window, None))
    if failed < MIN_FAILED:
        return None
    before = parts[max(0, len(parts) - window - REFERENCE) : len(parts) - window]
    if len(before) >= MIN_REFERENCE:
        usual = sum(before) / len(before)
        p_value = fisher_p_value(failed, window, sum(before), len(before))
    else:
        usual = max(permitted_rate or 0.0, _LEAST_RATE)
        p_value = binomial_p_value(failed, window, usual)
    return FailRateJump(failed, window, usual) if p_value < P_VALUE and failed / window > usual else None


def fisher_p_value(failed: int, parts: int, failed_before: int, parts_before: int) -> float:
    """Return the probability of at least so many failed parts if the rate did not change (Fisher's exact test)."""
    total_failed = failed + failed_before
    everything = _log_choices(parts + parts_before, total_failed)
    return math.fsum(
        math.exp(_log_choices(parts, count) + _log_choices(parts_before, total_failed - count) - everything)
        for count in range(failed, min(parts, total_failed) + 1)
        if total_failed - count <= parts_before
    )


def binomial_p_value(failed: int, parts: int, rate: float) -> float:
    """Return the probability of at least so many failed parts at a rate, which is less than 1."""
    if rate >= 1:
        return 1.0
    return math.fsum(
        math.exp(_log_choices(parts, count) + count * math.log(rate) + (parts - count) * math.log1p(-rate))
        for count in range(failed, parts + 1)
    )


def _log_choices(number: int, chosen: int) -> float:
    return math.lgamma(number + 1) - math.lgamma(chosen + 1) - math.lgamma(number - chosen + 1)
