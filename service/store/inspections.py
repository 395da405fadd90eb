"""Queries for stored inspections."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Engine, Select, select

from service.store.errors import UnknownInspection
from service.store.models import InspectionLabelRow, InspectionRow
from service.store.records import InspectionRecord
from service.store.session import reading

_IDS_AT_ONCE = 500
_TABLE, _LABELS = InspectionRow.__table__, InspectionLabelRow.__table__


@dataclass(frozen=True)
class InspectionFilter:
    """Conditions on the inspections to list. None matches any value.

    Attributes:
        product: Name of the product.
        decision: The decision.
        part_id: Id of the part.
        since: Earliest time of an inspection.
        permitted_products: Only these products.
        permitted_stations: Only these stations.
        label: Label by reviews.
    """

    product: str | None = None
    decision: str | None = None
    part_id: str | None = None
    since: datetime | None = None
    permitted_products: Collection[str] | None = None
    permitted_stations: Collection[str] | None = None
    label: str | None = None


def get_inspection(engine: Engine, inspection_id: UUID) -> InspectionRecord:
    """Return a stored inspection.

    Raises:
        UnknownInspection: No inspection has this id.
        StoreUnavailable: The database cannot be read.
    """
    found = _records(engine, select(_TABLE).where(_TABLE.c.id == str(inspection_id)))
    if not found:
        raise UnknownInspection(str(inspection_id))
    return found[0]


def find_inspections(engine: Engine, inspection_ids: Sequence[UUID]) -> dict[str, InspectionRecord]:
    """Return the stored inspections among those with the given ids, by id.

    Args:
        engine: The database.
        inspection_ids: At most 500 ids.

    Raises:
        StoreUnavailable: The database cannot be read.
    """
    if not inspection_ids:
        return {}
    query = select(_TABLE).where(_TABLE.c.id.in_([str(one) for one in inspection_ids]))
    return {record.id: record for record in _records(engine, query)}


def list_inspections(
    engine: Engine, which: InspectionFilter, *, before: UUID | None = None, limit: int = 50
) -> Sequence[InspectionRecord]:
    """Return stored inspections, newest first.

    Args:
        engine: The database.
        which: The conditions.
        before: Return only inspections older than this id, which is the last id of the previous page. A key instead
            of an offset, because new inspections would shift the pages of an offset.
        limit: Maximum number of inspections.

    Raises:
        StoreUnavailable: The database cannot be read.
    """
    # Sorted by the column of the table that the condition selects from, so that its index gives the order.
    key = _TABLE.c.id if which.label is None else _LABELS.c.inspection_id
    query = select(_TABLE).order_by(key.desc()).limit(limit)
    if before is not None:
        query = query.where(key < str(before))
    if which.product is not None:
        query = query.where(_TABLE.c.product == which.product)
    if which.decision is not None:
        query = query.where(_TABLE.c.decision == which.decision)
    if which.part_id is not None:
        query = query.where(_TABLE.c.part_id == which.part_id)
    if which.since is not None:
        query = query.where(_TABLE.c.created_at >= which.since)
    if which.permitted_products is not None:
        query = query.where(_TABLE.c.product.in_(which.permitted_products))
    if which.permitted_stations is not None:
        query = query.where(_TABLE.c.station.in_(which.permitted_stations))
    if which.label is not None:
        query = query.join(_LABELS, _LABELS.c.inspection_id == _TABLE.c.id).where(_LABELS.c.label == which.label)
        if which.product is not None:
            query = query.where(_LABELS.c.product == which.product)
    return _records(engine, query)


def recent_inspections(engine: Engine, product: str, bundle_digest: str, limit: int) -> Sequence[InspectionRecord]:
    """Return those of a product's newest `limit` judged inspections that one bundle decided, newest first.

    Raises:
        StoreUnavailable: The database cannot be read.
    """
    # Filtered in Python after the limit, so that a bundle that was replaced long ago does not cause a scan of the
    # whole table.
    judged = select(_TABLE).where(_TABLE.c.product == product, _TABLE.c.score.is_not(None))
    newest = _records(engine, judged.order_by(_TABLE.c.id.desc()).limit(limit))
    return [record for record in newest if record.bundle_digest == bundle_digest]


@dataclass(frozen=True)
class Selection:
    """A selection of inspections, by id or by time.

    Attributes:
        ids: The ids; None to select by time.
        since: Inclusive start of the period; None for no start.
        until: Exclusive end of the period; None for no end.
    """

    ids: tuple[UUID, ...] | None = None
    since: datetime | None = None
    until: datetime | None = None


def select_inspections(engine: Engine, product: str, which: Selection, limit: int) -> Sequence[InspectionRecord]:
    """Return the selected inspections of a product, oldest first.

    A selection by time omits images with the decision `invalid`.

    Args:
        engine: The database.
        product: The product.
        which: The selection.
        limit: Maximum number of inspections if the selection is by time.

    Raises:
        UnknownInspection: The product has no inspection with one of the ids.
        StoreUnavailable: The database cannot be read.
    """
    query = select(_TABLE).where(_TABLE.c.product == product).order_by(_TABLE.c.id)
    if which.ids is not None:
        names = list(dict.fromkeys(str(one) for one in which.ids))
        found: dict[str, InspectionRecord] = {}
        # Databases limit the number of values in a statement.
        for start in range(0, len(names), _IDS_AT_ONCE):
            piece = query.where(_TABLE.c.id.in_(names[start : start + _IDS_AT_ONCE]))
            found |= {record.id: record for record in _records(engine, piece)}
        if missing := [name for name in names if name not in found]:
            raise UnknownInspection(missing[0])
        return [found[name] for name in sorted(found)]
    query = query.where(_TABLE.c.score.is_not(None))
    if which.since is not None:
        query = query.where(_TABLE.c.created_at >= which.since)
    if which.until is not None:
        query = query.where(_TABLE.c.created_at < which.until)
    return _records(engine, query.limit(limit))


def _records(engine: Engine, query: Select[Any]) -> list[InspectionRecord]:
    with reading(engine) as session:
        return [InspectionRecord(**row) for row in session.execute(query).mappings()]
