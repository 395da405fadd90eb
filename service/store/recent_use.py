"""Which products were inspected most lately."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from sqlalchemy import Engine, func, select

from service.store.models import InspectionRow
from service.store.session import reading

PERIOD = timedelta(hours=24)
MAX_INSPECTIONS = 20_000
"""Newest inspections that are counted. It bounds the query, whatever the number of inspections."""


def most_used_products(
    engine: Engine, *, period: timedelta = PERIOD, max_inspections: int = MAX_INSPECTIONS
) -> list[str]:
    """Return the products of the newest inspections, those with most of them first.

    Args:
        engine: The database.
        period: Inspections that are older do not count.
        max_inspections: Most inspections to count.

    Raises:
        StoreUnavailable: The database cannot be read.
    """
    # The index of the primary key gives the newest ones.
    newest = (
        select(InspectionRow.id, InspectionRow.product, InspectionRow.created_at)
        .order_by(InspectionRow.id.desc())
        .limit(max_inspections)
        .subquery()
    )
    query = (
        select(newest.c.product)
        .where(newest.c.created_at >= datetime.now(UTC) - period)
        .group_by(newest.c.product)
        .order_by(func.count().desc(), func.max(newest.c.id).desc())
    )
    with reading(engine) as session:
        return list(session.scalars(query))
