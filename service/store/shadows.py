"""Verdicts of shadow bundles, and their pairing with the inspections."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime

from sqlalchemy import Engine, insert, select

from service.store.models import InspectionRow, ShadowRow
from service.store.records import PairedVerdict, ShadowRecord
from service.store.session import reading, transaction


def add_shadow_verdicts(engine: Engine, records: Sequence[ShadowRecord]) -> None:
    """Store verdicts of shadows in one transaction.

    Raises:
        StoreUnavailable: The database cannot store them.
    """
    with transaction(engine, "the verdicts of a shadow bundle cannot be stored") as connection:
        connection.execute(insert(ShadowRow), [record.columns() for record in records])


def paired_verdicts(
    engine: Engine, product: str, active: str, shadow: str, limit: int, stations: Collection[str] | None = None
) -> Sequence[PairedVerdict]:
    """Return the verdicts on images that one bundle decided and another one judged as its shadow, newest first.

    Args:
        engine: The database.
        product: The product.
        active: Version of the bundle that decided.
        shadow: Version of the shadow bundle.
        limit: Maximum number of images.
        stations: Only images of these stations; None for all images.

    Raises:
        StoreUnavailable: The database cannot be read.
    """
    query = (
        select(
            InspectionRow.id,
            InspectionRow.decision,
            ShadowRow.decision,
            InspectionRow.score,
            ShadowRow.score,
            InspectionRow.p_value,
            ShadowRow.p_value,
        )
        .join(ShadowRow, ShadowRow.inspection_id == InspectionRow.id)
        .where(
            InspectionRow.product == product,
            InspectionRow.bundle_version == active,
            ShadowRow.bundle_version == shadow,
            InspectionRow.score.is_not(None),
        )
        .order_by(ShadowRow.inspection_id.desc())
        .limit(limit)
    )
    if stations is not None:
        query = query.where(InspectionRow.station.in_(stations))
    with reading(engine) as session:
        return [PairedVerdict(*row) for row in session.execute(query)]  # type: ignore[arg-type]  # scores are not NULL


def disagreeing_ids(engine: Engine, product: str, since: datetime, until: datetime | None, limit: int) -> Sequence[str]:
    """Return the inspections of a product about which a shadow bundle decided differently, newest first.

    Args:
        engine: The database.
        product: The product.
        since: Inclusive start of the period.
        until: Exclusive end of the period; None for no end.
        limit: Maximum number of inspections.

    Raises:
        StoreUnavailable: The database cannot be read.
    """
    query = (
        select(InspectionRow.id)
        .join(ShadowRow, ShadowRow.inspection_id == InspectionRow.id)
        .where(
            InspectionRow.product == product,
            InspectionRow.created_at >= since,
            ShadowRow.decision != InspectionRow.decision,
        )
        .distinct()
        .order_by(InspectionRow.id.desc())
        .limit(limit)
    )
    if until is not None:
        query = query.where(InspectionRow.created_at < until)
    with reading(engine) as session:
        return session.scalars(query).all()
