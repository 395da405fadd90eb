"""Queries for retention: artefacts that exceed their retention, and the mark that they were removed."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from sqlalchemy import Engine, func, or_, select, update

from service.recipes.sections import StorageLimit
from service.store.models import InspectionRow
from service.store.records import Artefacts
from service.store.session import reading, transaction

# Inspections per transaction, which bounds how long the commit of an inspection can wait for it.
_GROUP = 200


def past_retention(
    engine: Engine,
    product: str,
    decision: str,
    *,
    older_than: datetime | None,
    beyond: int | None,
    protected: tuple[datetime, datetime],
    limit: int,
) -> Sequence[Artefacts]:
    """Return the stored artefacts that exceed their retention, oldest first.

    Args:
        engine: The database.
        product: The product.
        decision: The decision of the inspections.
        older_than: Artefacts from before this time exceed their retention; None for no limit of age.
        beyond: Artefacts that are not among the newest `beyond` exceed it, too; None for no limit of number.
        protected: Never return artefacts from this period, given by start and end. Later artefacts may be returned:
            the clock was set back since, so they are not the newest ones.
        limit: Maximum number of results.

    Raises:
        StoreUnavailable: The database cannot be read.
    """
    kept = (
        InspectionRow.product == product,
        InspectionRow.decision == decision,
        InspectionRow.artefacts_removed_at.is_(None),
    )
    # Times are compared with `created_at`, not with ids: an id may contain a later time if the clock was set back.
    columns = (InspectionRow.id, InspectionRow.image_media_type)
    start, end = protected
    is_free = or_(InspectionRow.created_at < start, InspectionRow.created_at > end)
    candidates = select(*columns).where(*kept, is_free).limit(limit)
    found: dict[str, str] = {}
    with reading(engine) as connection:
        if older_than is not None:
            old = candidates.where(InspectionRow.created_at < older_than).order_by(InspectionRow.created_at)
            found |= dict(connection.execute(old).all())
        if beyond is not None:
            newest = select(InspectionRow.id).where(*kept).order_by(InspectionRow.id.desc())
            first_beyond = connection.scalar(newest.offset(beyond).limit(1))
            if first_beyond is not None:
                surplus = candidates.where(InspectionRow.id <= first_beyond).order_by(InspectionRow.id)
                found |= dict(connection.execute(surplus).all())
    return [Artefacts(UUID(inspection_id), media_type) for inspection_id, media_type in sorted(found.items())[:limit]]


def past_size(
    engine: Engine, product: str, limits: StorageLimit, *, protected: tuple[datetime, datetime], limit: int
) -> Sequence[tuple[str, Artefacts]]:
    """Return the decision and the artefacts of inspections that have to be removed so that the rest is small enough.

    Args:
        engine: The database.
        product: The product.
        limits: The largest size, and the decisions that are kept longer.
        protected: Never return artefacts from this period, as for `past_retention`.
        limit: Maximum number of results.

    Raises:
        StoreUnavailable: The database cannot be read.
    """
    if limits.max_bytes is None:
        return []
    found: list[tuple[str, Artefacts]] = []
    kept = (InspectionRow.product == product, InspectionRow.artefacts_removed_at.is_(None))
    start, end = protected
    is_free = or_(InspectionRow.created_at < start, InspectionRow.created_at > end)
    columns = select(InspectionRow.id, InspectionRow.image_media_type, InspectionRow.artefact_bytes)
    with reading(engine) as session:
        total = session.scalar(select(func.sum(InspectionRow.artefact_bytes)).where(*kept))
        excess = int(total or 0) - limits.max_bytes
        for decision in limits.removal_order:
            if excess <= 0 or len(found) == limit:
                break
            oldest = columns.where(*kept, InspectionRow.decision == decision, is_free).order_by(InspectionRow.id)
            for inspection_id, media_type, size in session.execute(oldest.limit(limit - len(found))):
                if excess <= 0:
                    break
                found.append((decision, Artefacts(UUID(inspection_id), media_type)))
                excess -= size or 0
    return found


def mark_removed(engine: Engine, inspection_ids: Sequence[UUID], moment: datetime) -> None:
    """Record that the artefacts of these inspections were removed.

    Args:
        engine: The database.
        inspection_ids: The inspections. Their records are kept.
        moment: When the artefacts were removed.

    Raises:
        StoreUnavailable: The database cannot store it.
    """
    texts = [str(inspection_id) for inspection_id in inspection_ids]
    for start in range(0, len(texts), _GROUP):
        group = texts[start : start + _GROUP]
        with transaction(engine, "the removal of images and maps cannot be stored") as connection:
            connection.execute(
                update(InspectionRow).where(InspectionRow.id.in_(group)).values(artefacts_removed_at=moment)
            )
