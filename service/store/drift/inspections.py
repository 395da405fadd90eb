"""The inspections and labels that drift monitoring reads, in the order of their ids."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import Engine, func, select

from service.monitoring.drift.records import Observation
from service.store.drift.records import NewInspection
from service.store.models import InspectionLabelRow, InspectionRow, ReviewRow
from service.store.session import reading

LATE_S = 30.0
"""Inspections of several processes are stored in another order than that of their ids. Those whose id is older than the
newest one by less than this are counted nevertheless.
"""
_AT_ONCE = 500


def late_since(position: str) -> str:
    """Return the smallest id of inspections that may be stored after the one at a position."""
    milliseconds = max(0, (UUID(position).int >> 80) - round(1000 * LATE_S))
    return str(UUID(int=milliseconds << 80))


def ids_since(engine: Engine, start: str, limit: int | None = None, until: str | None = None) -> list[str]:
    """Return ids of inspections, ascending.

    Args:
        engine: The database.
        start: Return only later ids.
        limit: Maximum number of ids; None for all.
        until: Return only this id and earlier ones; None for all.

    Raises:
        StoreUnavailable: The database cannot be read.
    """
    query = select(InspectionRow.id).where(InspectionRow.id > start).order_by(InspectionRow.id)
    if until is not None:
        query = query.where(InspectionRow.id <= until)
    with reading(engine) as session:
        return list(session.scalars(query if limit is None else query.limit(limit)))


def read_inspections(engine: Engine, ids: Sequence[str]) -> list[NewInspection]:
    """Return judged inspections, in the order of their ids. Images that the quality check rejected are left out.

    Raises:
        StoreUnavailable: The database cannot be read.
    """
    row = InspectionRow
    columns = (
        row.id, row.created_at, row.product, row.station, row.decision, row.score, row.fail_threshold, row.quality,
        row.recipe_revision, row.image_sha256,
    )  # fmt: skip
    found: list[NewInspection] = []
    with reading(engine) as session:
        for start in range(0, len(ids), _AT_ONCE):
            query = select(*columns).where(row.id.in_(ids[start : start + _AT_ONCE]), row.score.is_not(None))
            for item in session.execute(query.order_by(row.id)):
                assert item.score is not None, "the query excludes them"
                observation = Observation(
                    item.id, item.created_at.timestamp(), item.station, item.score, item.fail_threshold,
                    item.decision == "fail", item.quality or {},
                )  # fmt: skip
                found.append(NewInspection(item.product, item.recipe_revision, item.image_sha256, observation))
    return found


def newest_review(engine: Engine) -> int:
    """Return the number of the newest review, which changes with every review and withdrawal.

    Raises:
        StoreUnavailable: The database cannot be read.
    """
    with reading(engine) as session:
        return session.scalar(select(func.max(ReviewRow.id))) or 0


def false_rejects(engine: Engine, product: str, since: str) -> list[tuple[str, str | None]]:
    """Return id and station of the failed inspections of a product that are labelled good.

    Args:
        engine: The database.
        product: The product.
        since: The smallest id.

    Raises:
        StoreUnavailable: The database cannot be read.
    """
    label = InspectionLabelRow
    query = (
        select(InspectionRow.id, InspectionRow.station)
        .join(label, label.inspection_id == InspectionRow.id)
        .where(label.product == product, label.label == "good", label.inspection_id >= since)
        .where(InspectionRow.decision == "fail")
    )
    with reading(engine) as session:
        return [(name, station) for name, station in session.execute(query)]
