"""Reading inspections back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import Engine, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from service.errors import UnknownInspection
from service.store.errors import StoreUnavailable
from service.store.models import InspectionRow


@dataclass(frozen=True)
class InspectionFilter:
    """Which inspections to list; None means any."""

    product: str | None = None
    decision: str | None = None
    part_id: str | None = None


def get_inspection(engine: Engine, inspection_id: UUID) -> InspectionRow:
    """The stored inspection.

    Raises:
        UnknownInspection: There is none with this id.
        StoreUnavailable: The database does not answer.
    """
    try:
        with Session(engine, expire_on_commit=False) as session:
            row = session.get(InspectionRow, str(inspection_id))
    except SQLAlchemyError as error:
        raise StoreUnavailable(f"the database does not answer ({error.__cause__ or error})") from error
    if row is None:
        raise UnknownInspection(str(inspection_id))
    return row


def list_inspections(
    engine: Engine, which: InspectionFilter, *, before: UUID | None = None, limit: int = 50
) -> Sequence[InspectionRow]:
    """Stored inspections, newest first.

    Args:
        engine: The database.
        which: Only those that match.
        before: Only those older than this id: the last one of the page before. A key rather than an offset,
            because new inspections arrive at the front all the time and would shift every page.
        limit: Most rows to return.

    Raises:
        StoreUnavailable: The database does not answer.
    """
    query = select(InspectionRow).order_by(InspectionRow.id.desc()).limit(limit)
    if before is not None:
        query = query.where(InspectionRow.id < str(before))
    if which.product is not None:
        query = query.where(InspectionRow.product == which.product)
    if which.decision is not None:
        query = query.where(InspectionRow.decision == which.decision)
    if which.part_id is not None:
        query = query.where(InspectionRow.part_id == which.part_id)
    try:
        with Session(engine, expire_on_commit=False) as session:
            return session.scalars(query).all()
    except SQLAlchemyError as error:
        raise StoreUnavailable(f"the database does not answer ({error.__cause__ or error})") from error
