"""Ranks of inspections among fixed reference values, with their exact probabilities.

The n reference values divide the line into n + 1 intervals. If the reference values and the inspections are
exchangeable, the interval of the next inspection has a known distribution, given the intervals of all earlier ones,
whatever the distribution of the values is: interval i has the probability

    (1 + number of earlier inspections in it) / (n + 1 + number of earlier inspections)

(Pólya's urn; the shares of the intervals follow the distribution Dirichlet(1, ..., 1)). So the p-values of one finite
reference set, which are not independent of each other, are tested with their joint distribution, not as if they were
independent. For n = 20 to 200, the latter would raise false alarms on most production lines sooner or later, because
the share of inspections above a reference value is never exactly the nominal one.

Each interval is mapped to its part of [0, 1]: 0 is the highest value. A bet is a density on [0, 1], averaged over that
part, which makes its expected value exactly 1.

Equal values are ordered by keys that are random, but computed from ids, so that a replay finds the same order. With
them the argument above holds for any distribution.
"""

from __future__ import annotations

import bisect
import hashlib
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from service.monitoring.drift.detector import Bets
from service.schemas.drift import DriftDirection

MAX_BINS = 64
"""Neighbouring intervals are merged beyond this number, except the outermost ones. Merging keeps all probabilities
exact.
"""
_POWERS = np.array([0.05, 0.15, 0.35, 0.6, 0.8])
_SPREADS = np.array([0.15, 0.5])
_HIGHER: DriftDirection = "higher"
_LOWER: DriftDirection = "lower"
_WIDER: DriftDirection = "wider"
SIDES = (_HIGHER,) * len(_POWERS) + (_LOWER,) * len(_POWERS) + (_WIDER,) * len(_SPREADS)
"""What each bet is on: higher values, lower values, or both more often than before."""
BET_WEIGHTS = (1 / len(SIDES),) * len(SIDES)


def interval_bets(low: npt.ArrayLike, high: npt.ArrayLike) -> Bets:
    """Return the mean of each bet's density over intervals of [0, 1].

    The densities are a * u^(a - 1) for higher values, the same of 1 - u for lower ones, and the mean of both for wider
    spread.

    Args:
        low: Start of each interval, float64 [...].
        high: End of each interval, greater than `low`, float64 [...].

    Returns:
        float64 [..., bets], in the order of `SIDES`.
    """
    low, high = np.asarray(low)[..., None], np.asarray(high)[..., None]
    higher, lower = high**_POWERS - low**_POWERS, (1 - low) ** _POWERS - (1 - high) ** _POWERS
    wider = (high**_SPREADS - low**_SPREADS + (1 - low) ** _SPREADS - (1 - high) ** _SPREADS) / 2
    bets: Bets = np.concatenate((higher, lower, wider), axis=-1) / (high - low)
    return bets


def tie_key(*parts: object) -> float:
    """Return a number in [0, 1) that is as good as random, and always the same for the same parts."""
    digest = hashlib.blake2b("\0".join(map(str, parts)).encode(), digest_size=7).digest()
    return int.from_bytes(digest, "big") / 2**56


class Ranks:
    """Counts of inspections by interval between reference values.

    Args:
        cuts: Pairs of reference value and key that separate the bins, ascending.
        weights: Number of intervals in each bin, one more than cuts.
        counts: Number of inspections in each bin so far; None for none.
    """

    def __init__(
        self, cuts: Sequence[tuple[float, float]], weights: Sequence[int], counts: Sequence[int] | None = None
    ) -> None:
        self._cuts = list(cuts)
        self._weights = np.asarray(weights, np.int64)
        self._counts = np.zeros_like(self._weights) if counts is None else np.asarray(counts, np.int64)
        self._masses = self._weights + self._counts
        self._total = int(self._masses.sum())

    @classmethod
    def of(cls, values: Sequence[float], seed: str, max_bins: int = MAX_BINS) -> Self:
        """Return the ranks among reference values.

        Args:
            values: The reference values, at least one, in any order.
            seed: What the keys of equal values are computed from.
            max_bins: Largest number of bins, at least 3.
        """
        pairs = sorted((value, tie_key(seed, index)) for index, value in enumerate(values))
        n = len(pairs)
        if n + 1 <= max_bins:
            return cls(pairs, [1] * (n + 1))
        # The lowest and the highest value are always cuts, because a large change puts all inspections beyond them.
        chosen = np.unique(np.round(np.linspace(0, n - 1, max_bins - 1)).astype(int)).tolist()
        edges = [-1, *chosen, n]
        return cls([pairs[index] for index in chosen], [end - start for start, end in pairwise(edges)])

    @property
    def reference_count(self) -> int:
        """Number of reference values."""
        return int(self._weights.sum()) - 1

    def add(self, value: float, key: float) -> Bets:
        """Count an inspection and return what the bets on its interval gained.

        Args:
            value: The value of the inspection.
            key: Its key; see `tie_key`.

        Returns:
            float64 [bets]; see `interval_bets`.
        """
        index = bisect.bisect_left(self._cuts, (value, key))
        above = int(self._masses[index + 1 :].sum())
        own = int(self._masses[index])
        bets = interval_bets(above / self._total, (above + own) / self._total)
        self._masses[index] += 1
        self._counts[index] += 1
        self._total += 1
        return bets

    def to_stored(self) -> dict[str, Any]:
        """Return the counts as JSON-serialisable values. The reference does not change: see `reference_to_stored`."""
        return {"counts": self._counts.tolist()}

    def reference_to_stored(self) -> dict[str, Any]:
        """Return the reference as JSON-serialisable values."""
        return {"cuts": [list(cut) for cut in self._cuts], "weights": self._weights.tolist()}

    @classmethod
    def from_stored(cls, reference: Mapping[str, Any], stored: Mapping[str, Any]) -> Self:
        """Return the ranks with a stored reference and stored counts."""
        cuts = [(float(value), float(key)) for value, key in reference["cuts"]]
        return cls(cuts, reference["weights"], stored["counts"])
