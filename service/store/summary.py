"""Counts of stored inspections per group and decision, computed by the database."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from sqlalchemy import ColumnElement, Engine, func, select

from service.store.inspection_filter import InspectionFilter, branches
from service.store.models import InspectionRow
from service.store.session import reading

CountKey = Literal["hour", "minute", "station", "lot", "product"]
_TABLE = InspectionRow.__table__


@dataclass(frozen=True)
class Count:
    """Number of inspections of one group with one decision.

    Attributes:
        key: Start of the hour or minute in UTC, or the name; None for inspections without the name.
        decision: The decision.
        number: Number of inspections.
    """

    key: datetime | str | None
    decision: str
    number: int


def count_inspections(engine: Engine, which: InspectionFilter, key: CountKey) -> Iterator[Count]:
    """Count inspections by a key and by decision. A pair of both may be returned several times; add the numbers.

    Local periods can be added up from minutes, and where the offset of the time zone is a number of hours, from hours.

    Args:
        engine: The database.
        which: The conditions. A short period keeps the statements short.
        key: What is counted separately.

    Raises:
        StoreUnavailable: The database cannot be read.
    """
    dialect = engine.dialect.name
    is_time = key == "hour" or key == "minute"
    group = _time(dialect, key) if is_time else _TABLE.c[key]
    with reading(engine) as session:
        for branch in branches(which, dialect):
            query = select(group, _TABLE.c.decision, func.count()).where(*branch).group_by(group, _TABLE.c.decision)
            for value, decision, number in session.execute(query):
                found = datetime.fromisoformat(value).replace(tzinfo=UTC) if is_time else value
                yield Count(found, decision, number)


def first_inspection_at(engine: Engine, which: InspectionFilter) -> datetime | None:
    """Return when the first inspection of one product was made within a period; None without one.

    Reads one entry of an index, however many inspections are stored.

    Args:
        engine: The database.
        which: Product, start and end of the period. Other conditions are ignored, so an inspection that meets them
            is not earlier.

    Raises:
        StoreUnavailable: The database cannot be read.
    """
    moment = _TABLE.c.created_at
    query = select(moment).where(_TABLE.c.product == which.product, moment >= which.since, moment < which.until)
    with reading(engine) as session:
        return session.scalar(query.order_by(moment).limit(1))


def _time(dialect: str, unit: str) -> ColumnElement[Any]:
    """Return the hour or minute of an inspection as a text in UTC, such as "2026-03-01 08" or "2026-03-01 08:30"."""
    form = "YYYY-MM-DD HH24" if unit == "hour" else "YYYY-MM-DD HH24:MI"
    if dialect == "sqlite":
        return func.substr(_TABLE.c.created_at, 1, len(form) - 2)
    return func.to_char(func.timezone("UTC", _TABLE.c.created_at), form)
