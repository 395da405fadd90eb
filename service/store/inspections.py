"""Reading inspections back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import Engine, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from service.store.errors import StoreUnavailable, UnknownInspection
from service.store.ids import first_id
from service.store.models import InspectionRow

_IDS_AT_ONCE = 500


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


def recent_inspections(engine: Engine, product: str, bundle_digest: str, limit: int) -> Sequence[InspectionRow]:
    """Of a product's newest judged inspections those by one bundle, newest first.

    Raises:
        StoreUnavailable: The database does not answer.
    """
    # Of the newest so many: a product that changed its bundle long ago must not be searched to its beginning.
    judged = select(InspectionRow).where(InspectionRow.product == product, InspectionRow.score.is_not(None))
    try:
        with Session(engine, expire_on_commit=False) as session:
            newest = session.scalars(judged.order_by(InspectionRow.id.desc()).limit(limit)).all()
    except SQLAlchemyError as error:
        raise StoreUnavailable(f"the database does not answer ({error.__cause__ or error})") from error
    return [row for row in newest if row.bundle_digest == bundle_digest]


@dataclass(frozen=True)
class Selection:
    """Inspections that somebody points at: by their ids, or all of a time.

    Attributes:
        ids: These; None: by time.
        since: Judged then or later; None: from the first one on.
        until: Judged before; None: up to now.
    """

    ids: tuple[UUID, ...] | None = None
    since: datetime | None = None
    until: datetime | None = None


def select_inspections(engine: Engine, product: str, which: Selection, limit: int) -> Sequence[InspectionRow]:
    """A product's inspections that a selection points at, oldest first. By time, images that were not worth a verdict
    are passed over.

    Args:
        engine: The database.
        product: Whose.
        which: The selection.
        limit: Most rows to return where the selection is by time.

    Raises:
        UnknownInspection: An id that was named is not this product's.
        StoreUnavailable: The database does not answer.
    """
    query = select(InspectionRow).where(InspectionRow.product == product).order_by(InspectionRow.id)
    try:
        with Session(engine, expire_on_commit=False) as session:
            if which.ids is not None:
                names = list(dict.fromkeys(str(one) for one in which.ids))
                found: dict[str, InspectionRow] = {}
                # In pieces: databases bound the number of values in a statement.
                for start in range(0, len(names), _IDS_AT_ONCE):
                    piece = query.where(InspectionRow.id.in_(names[start : start + _IDS_AT_ONCE]))
                    found |= {row.id: row for row in session.scalars(piece)}
                if missing := [name for name in names if name not in found]:
                    raise UnknownInspection(missing[0])
                return [found[name] for name in sorted(found)]
            query = query.where(InspectionRow.score.is_not(None))
            if which.since is not None:
                query = query.where(InspectionRow.id >= str(first_id(which.since)))
            if which.until is not None:
                query = query.where(InspectionRow.id < str(first_id(which.until)))
            return session.scalars(query.limit(limit)).all()
    except SQLAlchemyError as error:
        raise StoreUnavailable(f"the database does not answer ({error.__cause__ or error})") from error
