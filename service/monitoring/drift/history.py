"""The course of a stream's evidence, in a bounded number of points."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

MAX_POINTS = 120


class History:
    """Points of the evidence over time: the largest of each group of inspections.

    When there are too many points, neighbouring ones are merged, so that they cover the whole time since the start.
    """

    def __init__(self) -> None:
        self._points: list[tuple[float, float]] = []
        self._group = 1
        self._pending = 0

    def add(self, moment: float, evidence: float) -> None:
        """Add the evidence after an inspection.

        Args:
            moment: Time of the inspection, in seconds since 1970.
            evidence: Decimal logarithm.
        """
        evidence = round(evidence, 3)
        if self._pending:
            evidence = max(evidence, self._points.pop()[1])
        elif len(self._points) == MAX_POINTS:
            pairs = zip(self._points[::2], self._points[1::2], strict=True)
            self._points = [(later[0], max(first[1], later[1])) for first, later in pairs]
            self._group *= 2
        self._points.append((round(moment, 1), evidence))
        self._pending = (self._pending + 1) % self._group

    @property
    def points(self) -> tuple[tuple[float, float], ...]:
        """Time in seconds since 1970 and evidence, oldest first."""
        return tuple(self._points)

    def to_stored(self) -> dict[str, Any]:
        """Return the points as JSON-serialisable values."""
        return {"points": [list(point) for point in self._points], "group": self._group, "pending": self._pending}

    @classmethod
    def from_stored(cls, stored: Mapping[str, Any]) -> Self:
        """Return the points that `to_stored` returned."""
        restored = cls()
        restored._points = [(moment, evidence) for moment, evidence in stored["points"]]
        restored._group, restored._pending = stored["group"], stored["pending"]
        return restored
