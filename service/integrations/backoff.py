"""Delays between attempts: exponential back-off with full jitter.

Source: Brooker, "Exponential Backoff and Jitter", AWS Architecture Blog, 2015 (section "Full Jitter").
"""

from __future__ import annotations

import random
from collections.abc import Callable

# 2 to the power of this exceeds every delay; larger powers would overflow.
_MAX_DOUBLINGS = 30


def delay_s(
    failures: int, base_s: float, max_s: float, uniform: Callable[[float, float], float] = random.uniform
) -> float:
    """Return the delay before the next attempt, in seconds.

    Args:
        failures: Number of attempts that failed in a row, at least 1.
        base_s: Upper bound of the first delay.
        max_s: Upper bound of every delay.
        uniform: Returns a random number in an interval.
    """
    return uniform(0.0, min(max_s, base_s * 2.0 ** min(failures - 1, _MAX_DOUBLINGS)))
