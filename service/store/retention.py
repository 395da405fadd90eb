"""Queries for retention: artefacts that exceed their retention, and the mark that they were removed."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from sqlalchemy import Engine, or_, select, update

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
