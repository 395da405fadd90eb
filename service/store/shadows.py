"""What shadows said, and the inspections that they said it about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Engine, insert, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from service.store.errors import StoreUnavailable
from service.store.models import InspectionRow, ShadowRow


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


def add_shadow_verdicts(engine: Engine, rows: Sequence[ShadowRow]) -> None:
    """Remember what a shadow said, in one transaction.

    Raises:
        StoreUnavailable: The database does not take it.
    """
    values = [{name: getattr(row, name) for name in ShadowRow.__table__.columns.keys()} for row in rows]  # noqa: SIM118
    try:
        with engine.begin() as connection:
            connection.execute(insert(ShadowRow), values)
    except SQLAlchemyError as error:
        raise StoreUnavailable(f"the database did not take a shadow's verdict ({error.__cause__ or error})") from error


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
    try:
        with Session(engine) as session:
            return [JudgedTwice(*row) for row in session.execute(query)]  # type: ignore[arg-type]  # scores are there
    except SQLAlchemyError as error:
        raise StoreUnavailable(f"the database does not answer ({error.__cause__ or error})") from error
