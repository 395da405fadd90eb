"""Steps of the reject rate, whatever the rate is.

A line that always rejects 1 % of its parts is stationary. The bets are on the rate becoming a multiple of what it was.
What it was is estimated from all inspections so far: the probability of the next reject is (rejects + 1/2) /
(inspections + 1), as if every rate had been drawn from Jeffreys' prior. For one given rate the expected value of a bet
is therefore only nearly 1. docs/drift.md has the simulation that shows that the stated rate of false alarms is kept for
reject rates from 0.1 % to 20 %.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from service.monitoring.drift.detector import Bets

_RATIOS = np.array([2.0, 3.0, 6.0, 20.0])
"""Factors by which the reject rate rises, one per bet."""
BET_WEIGHTS = (0.25, 0.45, 0.2, 0.1)


def reject_bets(inspections: npt.ArrayLike, rejects: npt.ArrayLike, is_reject: npt.ArrayLike) -> Bets:
    """Return what the bets on the next inspection gain.

    Args:
        inspections: Number of judged inspections so far, [...].
        rejects: Number of those that failed, [...].
        is_reject: Whether the next one failed, [...].

    Returns:
        float64 [..., bets], one per factor by which the rate may have risen.
    """
    rate = ((np.asarray(rejects) + 0.5) / (np.asarray(inspections) + 1))[..., None]
    # No rate above one half is bet on: it is found by its first inspections.
    ratios = np.maximum(np.minimum(_RATIOS, 0.5 / rate), 1.0)
    bets: Bets = np.where(np.asarray(is_reject)[..., None], ratios, (1 - ratios * rate) / (1 - rate))
    return bets


class RejectRate:
    """The reject rate of a stream so far.

    Args:
        inspections: Number of judged inspections so far.
        rejects: Number of those that failed.
    """

    def __init__(self, inspections: int = 0, rejects: int = 0) -> None:
        self.inspections = inspections
        self.rejects = rejects

    def add(self, is_reject: bool) -> Bets:
        """Count an inspection and return what the bets on it gained; see `reject_bets`."""
        bets = reject_bets(self.inspections, self.rejects, is_reject)
        self.inspections += 1
        self.rejects += is_reject
        return bets

    def to_stored(self) -> dict[str, Any]:
        """Return the state as JSON-serialisable values."""
        return {"inspections": self.inspections, "rejects": self.rejects}

    @classmethod
    def from_stored(cls, stored: Mapping[str, Any]) -> Self:
        """Return the state that `to_stored` returned."""
        return cls(stored["inspections"], stored["rejects"])
