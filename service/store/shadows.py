"""What shadows said, and the inspections that they said it about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Engine, insert, select

from service.store.models import InspectionRow, ShadowRow
from service.store.records import ShadowRecord
from service.store.session import reading, transaction


@dataclass(frozen=True)
class JudgedTwice:
    """An image that one bundle decided and another one judged."""

    inspection_id: str
    active_decision: str
    shadow_decision: str
    active_score: float
    shadow_score: float
    active_p_value: float
    shadow_p_value: float


def add_shadow_verdicts(engine: Engine, records: Sequence[ShadowRecord]) -> None:
    """Remember what a shadow said, in one transaction.

    Raises:
        StoreUnavailable: The database does not take it.
    """
    with transaction(engine, "the database did not take a shadow's verdict") as connection:
        connection.execute(insert(ShadowRow), [record.columns() for record in records])


def judged_twice(engine: Engine, product: str, active: str, shadow: str, limit: int) -> Sequence[JudgedTwice]:
    """The newest images that one version decided and another one judged as its shadow, newest first.

    Raises:
        StoreUnavailable: The database does not answer.
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
    with reading(engine) as session:
        return [JudgedTwice(*row) for row in session.execute(query)]  # type: ignore[arg-type]  # scores are there
