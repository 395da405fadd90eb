"""Whether reviews contradict the bound of the false-reject rate.

The bound says that a share of at most `rate` of the inspections is a good part that fails. Reviews find such parts
among the failed ones. Labels arrive late and in any order, so the evidence is computed from totals in the order of the
inspections, not in the order of the labels. A failed part without a label counts as a defect, which can only lower the
evidence.

The bets are those of `Detector`, on the rate being a multiple of the bound. Their starts are not all inspections but
the starts of blocks of inspections: the unit of an inspection is bet from the start of the next block on.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np

MAX_BLOCKS = 128
_FIRST_SIZE = 50
_RATIOS = np.array([1.5, 2.0, 4.0, 10.0])
_MAX_LOG = 600.0


@dataclass
class _Block:
    start: str
    moment: float
    accepted: int = 0


class FalseRejects:
    """Inspections since the start of a stream, in blocks.

    Args:
        rate: The bound of the false-reject rate, in (0, 1).
    """

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self.wealth = 0.0
        self.onset: float | None = None
        self.found = 0
        self._size = _FIRST_SIZE
        self._blocks: list[_Block] = []

    @property
    def start(self) -> str | None:
        """Id of the first inspection; None without inspections."""
        return self._blocks[0].start if self._blocks else None

    @property
    def accepted(self) -> int:
        """Number of inspections that did not fail."""
        return sum(block.accepted for block in self._blocks)

    def add(self, inspection_id: str, moment: float, is_reject: bool) -> None:
        """Count an inspection. Ids must ascend.

        Args:
            inspection_id: Its id.
            moment: Its time, in seconds since 1970.
            is_reject: Whether it failed. Such inspections count only when they are labelled.
        """
        blocks = self._blocks
        if not blocks or blocks[-1].accepted >= self._size:
            if len(blocks) == MAX_BLOCKS:
                self._merge()
            blocks = self._blocks
            blocks.append(_Block(inspection_id, moment))
        blocks[-1].accepted += not is_reject

    def update(self, labelled_good: Sequence[str]) -> None:
        """Compute the evidence.

        Args:
            labelled_good: Ids of the failed inspections since `start` that are labelled good, in any order.
        """
        blocks = self._blocks
        if not blocks:
            return
        starts = [block.start for block in blocks]
        found = np.zeros(len(blocks))
        for inspection_id in labelled_good:
            found[max(0, bisect_right(starts, inspection_id) - 1)] += 1
        accepted = np.array([block.accepted for block in blocks], np.float64)
        self.found = int(found.sum())
        ratios = np.maximum(np.minimum(_RATIOS, 0.5 / self.rate), 1.0)
        since = np.cumsum(np.stack((found, accepted))[:, ::-1], axis=1)[:, ::-1]
        logs = np.outer(np.log(ratios), since[0]) + np.outer(
            np.log((1 - ratios * self.rate) / (1 - self.rate)), since[1]
        )
        gains = np.exp(np.minimum(logs, _MAX_LOG)).mean(axis=0)
        units = np.concatenate(([1.0], (found + accepted)[:-1]))
        self.wealth = float(units @ gains)
        self.onset = blocks[int(np.argmax(gains))].moment

    def to_stored(self) -> dict[str, Any]:
        """Return the state as JSON-serialisable values."""
        blocks = [asdict(block) for block in self._blocks]
        return {"wealth": self.wealth, "onset": self.onset, "found": self.found, "size": self._size, "blocks": blocks}

    @classmethod
    def from_stored(cls, rate: float, stored: Mapping[str, Any]) -> Self:
        """Return the state that `to_stored` returned."""
        restored = cls(rate)
        restored.wealth, restored.onset, restored.found = stored["wealth"], stored["onset"], stored["found"]
        restored._size = stored["size"]
        restored._blocks = [_Block(**block) for block in stored["blocks"]]
        return restored

    def _merge(self) -> None:
        blocks = self._blocks
        self._blocks = [
            _Block(first.start, first.moment, first.accepted + second.accepted)
            for first, second in zip(blocks[::2], blocks[1::2], strict=True)
        ]
        self._size *= 2
