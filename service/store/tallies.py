"""Number of inspections by decision, with the times that they took."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from sqlalchemy import ColumnElement, Engine, func, select

from service.store.inspection_filter import InspectionFilter, branches
from service.store.models import InspectionRow
from service.store.session import reading

STAGES = ("decode", "preprocess", "queue", "infer", "postprocess")
"""Stages whose times are stored with an inspection."""
_TABLE = InspectionRow.__table__


def total_time_ms() -> ColumnElement[float]:
    """Return the sum of the times of all stages of an inspection, in milliseconds, for a query."""
    total: ColumnElement[float] = sum(  # type: ignore[assignment]
        func.coalesce(_TABLE.c.timings_ms[stage].as_float(), 0.0) for stage in STAGES
    )
    return total


@dataclass(frozen=True)
class Tally:
    """Counts and times of inspections.

    Attributes:
        counts: Number of inspections by decision.
        total_ms: Sum of their times in milliseconds.
        min_ms: The shortest time; None without inspections.
        max_ms: The longest time; None without inspections.
    """

    counts: Counter[str] = field(default_factory=Counter)
    total_ms: float = 0.0
    min_ms: float | None = None
    max_ms: float | None = None

    def __add__(self, other: Tally) -> Tally:
        """Return the tally of both."""
        return Tally(
            self.counts + other.counts,
            self.total_ms + other.total_ms,
            min((one for one in (self.min_ms, other.min_ms) if one is not None), default=None),
            max((one for one in (self.max_ms, other.max_ms) if one is not None), default=None),
        )

    @property
    def mean_ms(self) -> float | None:
        """The mean time; None without inspections."""
        number = self.counts.total()
        return self.total_ms / number if number else None


def tally_inspections(engine: Engine, which: InspectionFilter) -> Tally:
    """Count inspections by decision, with the sum of the times of all stages.

    Args:
        engine: The database.
        which: The conditions. A short period keeps the statements short.

    Raises:
        StoreUnavailable: The database cannot be read.
    """
    time_ms = total_time_ms()
    columns = (_TABLE.c.decision, func.count(), func.sum(time_ms), func.min(time_ms), func.max(time_ms))
    found = Tally()
    with reading(engine) as session:
        for branch in branches(which, engine.dialect.name):
            for decision, number, total, shortest, longest in session.execute(
                select(*columns).where(*branch).group_by(_TABLE.c.decision)
            ):
                found += Tally(Counter({decision: number}), total, shortest, longest)
    return found
