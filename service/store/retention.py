"""Queries for retention: artefacts that exceed their retention, and the mark that they were removed."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from sqlalchemy import Engine, or_, select, update

from service.store.ids import smallest_text
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
    not_after: datetime,
    limit: int,
) -> Sequence[Artefacts]:
    """Return the stored artefacts that exceed their retention, oldest first.

    Args:
        engine: The database.
        product: The product.
        decision: The decision of the inspections.
        older_than: Artefacts from before this time exceed their retention; None for no limit of age.
        beyond: Artefacts that are not among the newest `beyond` exceed it, too; None for no limit of number.
        not_after: Never return artefacts from this time or later.
        limit: Maximum number of results.

    Raises:
        StoreUnavailable: The database cannot be read.
    """
    kept = (
        InspectionRow.product == product,
        InspectionRow.decision == decision,
        InspectionRow.artefacts_removed_at.is_(None),
    )
    with reading(engine) as connection:
        past = [] if older_than is None else [InspectionRow.id < smallest_text(older_than)]
        if beyond is not None:
            newest = select(InspectionRow.id).where(*kept).order_by(InspectionRow.id.desc())
            first_beyond = connection.scalar(newest.offset(beyond).limit(1))
            past += [] if first_beyond is None else [InspectionRow.id <= first_beyond]
        if not past:
            return []
        found = connection.execute(
            select(InspectionRow.id, InspectionRow.image_media_type)
            .where(*kept, or_(*past), InspectionRow.id < smallest_text(not_after))
            .order_by(InspectionRow.id)
            .limit(limit)
        )
        return [Artefacts(UUID(inspection_id), media_type) for inspection_id, media_type in found]


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
