"""Reading inspections back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Engine, Select, select

from service.store.errors import UnknownInspection
from service.store.ids import first_id
from service.store.models import InspectionRow
from service.store.records import InspectionRecord
from service.store.session import reading

_IDS_AT_ONCE = 500
_TABLE = InspectionRow.__table__


@dataclass(frozen=True)
class InspectionFilter:
    """Which inspections to list; None means any."""

    product: str | None = None
    decision: str | None = None
    part_id: str | None = None


def get_inspection(engine: Engine, inspection_id: UUID) -> InspectionRecord:
    """The stored inspection.

    Raises:
        UnknownInspection: There is none with this id.
        StoreUnavailable: The database does not answer.
    """
    found = _records(engine, select(_TABLE).where(_TABLE.c.id == str(inspection_id)))
    if not found:
        raise UnknownInspection(str(inspection_id))
    return found[0]


def list_inspections(
    engine: Engine, which: InspectionFilter, *, before: UUID | None = None, limit: int = 50
) -> Sequence[InspectionRecord]:
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
    query = select(_TABLE).order_by(_TABLE.c.id.desc()).limit(limit)
    if before is not None:
        query = query.where(_TABLE.c.id < str(before))
    if which.product is not None:
        query = query.where(_TABLE.c.product == which.product)
    if which.decision is not None:
        query = query.where(_TABLE.c.decision == which.decision)
    if which.part_id is not None:
        query = query.where(_TABLE.c.part_id == which.part_id)
    return _records(engine, query)


def recent_inspections(engine: Engine, product: str, bundle_digest: str, limit: int) -> Sequence[InspectionRecord]:
    """Of a product's newest judged inspections those by one bundle, newest first.

    Raises:
        StoreUnavailable: The database does not answer.
    """
    # Of the newest so many: a product that changed its bundle long ago must not be searched to its beginning.
    judged = select(_TABLE).where(_TABLE.c.product == product, _TABLE.c.score.is_not(None))
    newest = _records(engine, judged.order_by(_TABLE.c.id.desc()).limit(limit))
    return [record for record in newest if record.bundle_digest == bundle_digest]


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


def select_inspections(engine: Engine, product: str, which: Selection, limit: int) -> Sequence[InspectionRecord]:
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
    query = select(_TABLE).where(_TABLE.c.product == product).order_by(_TABLE.c.id)
    if which.ids is not None:
        names = list(dict.fromkeys(str(one) for one in which.ids))
        found: dict[str, InspectionRecord] = {}
        # In pieces: databases bound the number of values in a statement.
        for start in range(0, len(names), _IDS_AT_ONCE):
            piece = query.where(_TABLE.c.id.in_(names[start : start + _IDS_AT_ONCE]))
            found |= {record.id: record for record in _records(engine, piece)}
        if missing := [name for name in names if name not in found]:
            raise UnknownInspection(missing[0])
        return [found[name] for name in sorted(found)]
    query = query.where(_TABLE.c.score.is_not(None))
    if which.since is not None:
        query = query.where(_TABLE.c.id >= str(first_id(which.since)))
    if which.until is not None:
        query = query.where(_TABLE.c.id < str(first_id(which.until)))
    return _records(engine, query.limit(limit))


def _records(engine: Engine, query: Select[Any]) -> list[InspectionRecord]:
    with reading(engine) as session:
        return [InspectionRecord(**row) for row in session.execute(query).mappings()]
