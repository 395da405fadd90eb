"""Which inspections' images and maps have been kept long enough."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import Engine, or_, select, update

from service.store.ids import smallest_text
from service.store.models import InspectionRow
from service.store.session import reading, transaction

# Inspections per transaction: the line's own commits never wait for more than these.
_GROUP = 200


@dataclass(frozen=True)
class Artefacts:
    """The files of one inspection."""

    inspection_id: UUID
    media_type: str


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
    """Image and map of inspections that have both and need not have them any longer, oldest first.

    Args:
        engine: The database.
        product: Of this product.
        decision: With this decision.
        older_than: Those from before; None: none for their age.
        beyond: Those that are not among the newest so many; None: none for their number.
        not_after: None from after this moment, whatever else is said.
        limit: At most so many.

    Raises:
        StoreUnavailable: The database does not answer.
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
    """Remember that image and map of these inspections were removed. Their records stay.

    Raises:
        StoreUnavailable: The database does not take it.
    """
    texts = [str(inspection_id) for inspection_id in inspection_ids]
    for start in range(0, len(texts), _GROUP):
        group = texts[start : start + _GROUP]
        with transaction(engine, "the database did not take the removal of images and maps") as connection:
            connection.execute(
                update(InspectionRow).where(InspectionRow.id.in_(group)).values(artefacts_removed_at=moment)
            )
