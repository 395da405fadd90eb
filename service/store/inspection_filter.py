"""Conditions on inspections, and how an index serves each combination of them.

Inspections are listed in the order of their ids, newest first. A combination of conditions is split into branches. Each
branch fixes all columns of an index before its last one, which is the id, so that a page is the first rows of that
index: no row is sorted, and rows that do not match are only read where two rare conditions have no common index.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, exists, func, literal_column, or_

from service.store.models import InspectionLabelRow, InspectionRow
from service.store.models.inspections import CLOCK_SET, ID_TOLERANCE, ID_UNIT_MS

DECISIONS = ("fail", "invalid", "pass", "review")
MAX_BRANCHES = 100
"""Most branches of a filter. Beyond it, the products and stations that a key permits are not fixed by an index."""
_TABLE, _LABELS = InspectionRow.__table__, InspectionLabelRow.__table__
Branch = Sequence[ColumnElement[bool]]
"""Conditions that all hold. The branches of a filter have no inspection in common."""


@dataclass(frozen=True)
class InspectionFilter:
    """Conditions on stored inspections. None and the empty tuple match any value.

    Attributes:
        product: Name of the product.
        decisions: The decisions, one of which the inspection has.
        part_id: Id of the part.
        since: Earliest time of an inspection, inclusive.
        until: Latest time of an inspection, exclusive.
        station: The station.
        lot: The lot.
        min_score: Smallest score, inclusive. Inspections without a score do not match.
        max_score: Largest score, inclusive. Inspections without a score do not match.
        ids: Ids of the inspections; None for all inspections. Ids that do not exist are ignored.
        permitted_products: Only these products.
        permitted_stations: Only these stations.
        label: Label by reviews.
    """

    product: str | None = None
    decisions: tuple[str, ...] = ()
    part_id: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    station: str | None = None
    lot: str | None = None
    min_score: float | None = None
    max_score: float | None = None
    ids: tuple[UUID, ...] | None = None
    permitted_products: Collection[str] | None = None
    permitted_stations: Collection[str] | None = None
    label: str | None = None

    @property
    def is_selective(self) -> bool:
        """Whether few inspections match: those of a list, of a part or of a lot."""
        return self.ids is not None or self.part_id is not None or self.lot is not None

    @property
    def scores(self) -> Branch:
        """Return the conditions on the score."""
        return _between(_TABLE.c.score, self.min_score, self.max_score)

    @property
    def values(self) -> Mapping[str, tuple[str, ...] | None]:
        """Return the values of each column, one of which an inspection has; None for all."""
        return {
            "product": _values(self.product, self.permitted_products),
            "station": _values(self.station, self.permitted_stations),
            "lot": _values(self.lot, None),
            "part_id": _values(self.part_id, None),
            "decision": tuple(dict.fromkeys(self.decisions)) or None,
        }

    @property
    def is_impossible(self) -> bool:
        """Whether nothing matches, because a value is not permitted."""
        return () in self.values.values()

    def residual(self, fixed: Collection[str]) -> Branch:
        """Return the conditions on the columns that are not fixed otherwise. No index is used for them.

        Args:
            fixed: Names of the columns.
        """
        values = self.values
        found: list[ColumnElement[bool]] = [
            unindexed(_TABLE.c[name]).in_(given)
            for name, given in values.items()
            if given is not None and name not in fixed
        ]
        if "score" not in fixed:
            found += _between(unindexed(_TABLE.c.score), self.min_score, self.max_score)
        if self.ids is not None and "id" not in fixed:
            found.append(unindexed(_TABLE.c.id).in_([str(one) for one in self.ids]))
        if self.label is not None and "label" not in fixed:
            found.append(exists().where(_LABELS.c.inspection_id == _TABLE.c.id, _LABELS.c.label == self.label))
        if self.since is not None:
            found.append(unindexed(_TABLE.c.created_at) >= self.since)
        if self.until is not None:
            found.append(unindexed(_TABLE.c.created_at) < self.until)
        return found


def unindexed(column: ColumnElement[Any]) -> ColumnElement[Any]:
    """Return an expression with the value of a column for which neither SQLite nor PostgreSQL uses an index.

    SQLite has no statistics of the columns. Between two indexes, it could choose that of the condition that almost
    every row meets, or sort all rows that match.
    """
    return func.coalesce(column, column)


def branches(
    which: InspectionFilter, dialect: str, *, before: UUID | None = None, after: UUID | None = None
) -> list[Branch]:
    """Return the branches of a filter.

    Args:
        which: The conditions.
        dialect: "sqlite" or "postgresql".
        before: Only inspections older than this id.
        after: Only inspections newer than this id.
    """
    if which.is_impossible:
        return []
    low, high = _id_bounds(which)
    limits = [one for one in (high, None if before is None else str(before)) if one is not None]
    window = [_TABLE.c.id >= low] if low is not None else []
    window += [] if after is None else [_TABLE.c.id > str(after)]
    window += [_TABLE.c.id < min(limits)] if limits else []
    if which.ids is not None:
        among = _TABLE.c.id.in_([str(one) for one in which.ids])
        return [[among, *_beyond(before, after), *which.residual({"id"})]]
    found: list[Branch] = [[*fixed, *window, *which.residual(names)] for names, fixed in _fixed(which)]
    if low is not None or high is not None:
        outside = [_TABLE.c.id < low] if low is not None else []
        outside += [_TABLE.c.id >= high] if high is not None else []
        found.append([literal_column(CLOCK_SET[dialect]), or_(*outside), *_beyond(before, after), *which.residual(())])
    return found


def _beyond(before: UUID | None, after: UUID | None) -> Branch:
    older = [] if before is None else [_TABLE.c.id < str(before)]
    return older if after is None else [*older, _TABLE.c.id > str(after)]


def _fixed(which: InspectionFilter) -> list[tuple[Collection[str], Branch]]:
    """Return, per branch, the columns that its index begins with, and the conditions that fix them."""
    values = which.values
    for names in _indexes(which):
        choices = [DECISIONS if (given := values[name]) is None else given for name in names]
        if math.prod(map(len, choices)) <= MAX_BRANCHES:
            return [
                (names, [_TABLE.c[name] == value for name, value in zip(names, chosen, strict=True)])
                for chosen in itertools.product(*choices)
            ]
    return [((), ())]


def _indexes(which: InspectionFilter) -> Sequence[tuple[str, ...]]:
    """Return the columns before the id of the indexes that serve a filter, the best first."""
    values = which.values
    if values["part_id"] is not None:
        return [("part_id",)]
    if values["lot"] is not None:
        return [("lot", "decision")]
    if values["station"] is not None:
        of_station = ("station", "decision")
        return [of_station] if values["product"] is None else [("product", *of_station), of_station]
    of_decision: tuple[str, ...] = ("decision",) if which.decisions else ()
    return [of_decision] if values["product"] is None else [("product", *of_decision), of_decision]


def _id_bounds(which: InspectionFilter) -> tuple[str | None, str | None]:
    """Return the smallest id and the end of the ids that inspections of the period have, unless the clock was set."""
    low = None if which.since is None else f"{max(0, _unit(which.since) - ID_TOLERANCE):08x}"
    high = None if which.until is None else f"{max(0, _unit(which.until) + ID_TOLERANCE + 1):08x}"
    return low, high


def _unit(moment: datetime) -> int:
    return int(moment.astimezone(UTC).timestamp()) * 1000 // ID_UNIT_MS


def _between(column: ColumnElement[Any], low: float | None, high: float | None) -> list[ColumnElement[bool]]:
    found = [] if low is None else [column >= low]
    return found if high is None else [*found, column <= high]


def _values(given: str | None, permitted: Collection[str] | None) -> tuple[str, ...] | None:
    if given is None:
        return None if permitted is None else tuple(sorted(permitted))
    return (given,) if permitted is None or given in permitted else ()
