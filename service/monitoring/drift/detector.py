"""Evidence against "nothing has changed", as the wealth of bets that are fair as long as nothing has changed.

`Detector` is an e-detector of the Shiryaev-Roberts kind (Shin, Ramdas & Rinaldo 2023, "E-detectors"). A bet on an
inspection has the expected value 1, given all earlier inspections, as long as nothing has changed. A change may begin
at any inspection, so one unit is bet anew at each of them, and all of these bets are carried on:

    wealth[t] = (wealth[t - 1] + 1) * bet[t]

Then `wealth[t] - t` is a martingale. If an alarm is raised when the wealth reaches a limit, and the wealth is zero
again after every alarm, then the expected number of false alarms within any number of inspections N is at most
N / limit: each alarm takes at least `limit` out of the N units that were put in. This holds however often the alarms
are acknowledged, and at every time that the evidence is read.

Several kinds of bets run at the same time, with a weight each. Their weighted sum has the same property.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt

Bets = npt.NDArray[np.float64]
# Far above every limit. Less wealth than was won keeps the bound.
_LARGEST = 1e100


class Detector:
    """The wealth of several kinds of bets, and when the change began if there is one.

    Args:
        weights: Weight of each kind of bet; their sum is 1.
    """

    def __init__(self, weights: Sequence[float]) -> None:
        self._weights = np.asarray(weights, np.float64)
        self.reset()

    def reset(self) -> None:
        """Start anew with no evidence."""
        self._wealth = np.zeros_like(self._weights)
        # Page's CUSUM of the same bets: its last start is the most likely start of the change.
        self._excursion = np.zeros_like(self._weights)
        self._start = np.zeros_like(self._weights)

    def update(self, bets: Bets, moment: float) -> None:
        """Add an inspection.

        Args:
            bets: float64 [bets], factor of each kind of bet, at least 0. The expected value of each is at most 1, given
                all earlier inspections, as long as nothing has changed.
            moment: Time of the inspection, in seconds since 1970.
        """
        self._wealth = np.minimum((self._wealth + 1.0) * bets, _LARGEST)
        begins = self._excursion <= 1.0
        self._start = np.where(begins, moment, self._start)
        self._excursion = np.minimum(np.where(begins, 1.0, self._excursion) * bets, _LARGEST)

    @property
    def wealth(self) -> float:
        """The weighted wealth, at least 0."""
        return float(self._weights @ self._wealth)

    @property
    def strongest(self) -> int:
        """Index of the kind of bet that has gained most."""
        return int(np.argmax(self._weights * self._wealth))

    @property
    def onset(self) -> float | None:
        """Estimated start of the change, in seconds since 1970; None without inspections.

        It is the maximum-likelihood estimate for the kind of bet that has gained most.
        """
        start = float(self._start[self.strongest])
        return start or None

    def to_stored(self) -> dict[str, Any]:
        """Return the state as JSON-serialisable values."""
        return {
            "wealth": self._wealth.tolist(),
            "excursion": self._excursion.tolist(),
            "start": self._start.tolist(),
        }

    def restore(self, stored: Mapping[str, Any]) -> Self:
        """Set the state that `to_stored` returned, and return this object."""
        self._wealth = np.asarray(stored["wealth"], np.float64)
        self._excursion = np.asarray(stored["excursion"], np.float64)
        self._start = np.asarray(stored["start"], np.float64)
        return self


def evidence_of(wealth: float) -> float:
    """Return wealth as evidence: its decimal logarithm, and 0 below 1."""
    return math.log10(wealth) if wealth > 1 else 0.0
