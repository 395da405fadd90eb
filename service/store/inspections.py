"""Queries for stored inspections."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Engine, RowMapping, Select, and_, func, select, true, union_all
from sqlalchemy.orm import Session

from service.store.inspection_filter import InspectionFilter, branches
from service.store.models import InspectionLabelRow, InspectionRow
from service.store.record_removal.state import missing_inspection
from service.store.records import InspectionRecord
from service.store.session import reading

RARE_SCORES = 30_000
"""Up to this number of inspections in a range of scores, a page is read by score, and otherwise by id."""
_IDS_AT_ONCE = 500
_TABLE, _LABELS = InspectionRow.__table__, InspectionLabelRow.__table__
# A filter by label has the table itself in its statement.
_EXPORTED_LABELS = _LABELS.alias("exported_labels")
_NOT_EXPORTED = {"regions", "timings_ms", "quality", "image_pixels", "dropped_regions"}
EXPORTED: tuple[ColumnElement[Any], ...] = (
    *(column for column in _TABLE.c if column.name not in _NOT_EXPORTED),
    func.json_array_length(_TABLE.c.regions).label("region_count"),
    # Not a join: the pages of a filter are read by its index.
    select(_EXPORTED_LABELS.c.label)
    .where(_EXPORTED_LABELS.c.inspection_id == _TABLE.c.id)
    .correlate(_TABLE)
    .scalar_subquery()
    .label("label"),
)
"""The columns of an export. Long ones are left out; of the regions, their number is read."""
MEASURED: tuple[ColumnElement[Any], ...] = (_TABLE.c.id, _TABLE.c.score, _TABLE.c.bundle_digest, _TABLE.c.quality)
"""The columns of distributions of scores and of image quality."""
OUTCOMES: tuple[ColumnElement[Any], ...] = (_TABLE.c.id, _TABLE.c.product, _TABLE.c.station, _TABLE.c.decision)
"""The columns of rates of decisions."""


def get_inspection(engine: Engine, inspection_id: UUID) -> InspectionRecord:
    """Return a stored inspection.

    Raises:
        UnknownInspection: No inspection has this id.
        StoreUnavailable: The database cannot be read.
    """
    found = _records(engine, select(_TABLE).where(_TABLE.c.id == str(inspection_id)))
    if not found:
        with reading(engine) as session:
            raise missing_inspection(session, str(inspection_id))
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
    engine: Engine,
    which: InspectionFilter,
    *,
    before: UUID | None = None,
    after: UUID | None = None,
    limit: int = 50,
) -> Sequence[InspectionRecord]:
    """Return stored inspections, newest first; with `after`, those that follow it, oldest first.

    Args:
        engine: The database.
        which: The conditions.
        before: Return only inspections older than this id, which is the last id of the previous page. A key instead
            of an offset, because new inspections would shift the pages of an offset.
        after: Return only inspections newer than this id.
        limit: Maximum number of inspections.

    Raises:
        StoreUnavailable: The database cannot be read.
    """
    rows = read_columns(engine, tuple(_TABLE.c), which, before=before, after=after, limit=limit)
    return [InspectionRecord(**row) for row in rows]


def read_columns(
    engine: Engine,
    columns: Sequence[ColumnElement[Any]],
    which: InspectionFilter,
    *,
    before: UUID | None = None,
    after: UUID | None = None,
    limit: int,
) -> Sequence[RowMapping]:
    """Return columns of stored inspections, newest first; with `after`, those that follow it, oldest first.

    Args:
        engine: The database.
        columns: The columns; `id` must be one of them.
        which: The conditions.
        before: Return only inspections older than this id.
        after: Return only inspections newer than this id.
        limit: Maximum number of inspections.

    Raises:
        StoreUnavailable: The database cannot be read.
    """
    is_descending = after is None
    with reading(engine) as session:
        ids = _ids_by_score(session, which, before, after, limit)
        if ids is None:
            # One statement, so that all parts of the page show the same state of the database.
            parts = page_statements(session, which, before, limit, after)
            if not parts:
                return []
            if len(parts) == 1:
                return session.execute(parts[0].with_only_columns(*columns)).mappings().all()
            pages = union_all(*(select(part.subquery().c.id) for part in parts))
            ids = sorted(session.scalars(pages), reverse=is_descending)[:limit]
        rows: list[RowMapping] = []
        for start in range(0, len(ids), _IDS_AT_ONCE):
            found = select(*columns).where(_TABLE.c.id.in_(ids[start : start + _IDS_AT_ONCE]))
            rows += session.execute(found).mappings()
    return sorted(rows, key=lambda row: str(row["id"]), reverse=is_descending)


def page_statements(
    session: Session, which: InspectionFilter, before: UUID | None, limit: int, after: UUID | None = None
) -> Sequence[Select[tuple[str]]]:
    """Return the statements that read the ids of a page. Their results together contain the page.

    Each reads one index in the order of ids, from the start of the page until it is full. A range of scores that few
    inspections have is read otherwise, see `score_statement`.
    """
    if which.label is not None:
        return [_labelled(which, before, after).limit(limit)]
    found = branches(which, session.get_bind().dialect.name, before=before, after=after)
    return [select(_TABLE.c.id).where(*branch).order_by(_ordered(_TABLE.c.id, after)).limit(limit) for branch in found]


def _ordered(key: ColumnElement[Any], after: UUID | None) -> ColumnElement[Any]:
    return key.desc() if after is None else key.asc()


def _labelled(which: InspectionFilter, before: UUID | None, after: UUID | None) -> Select[tuple[str]]:
    """Return the statement that reads the ids of inspections with a label, which are few, in the order of ids."""
    key = _LABELS.c.inspection_id
    query = select(_TABLE.c.id).select_from(_TABLE.join(_LABELS, key == _TABLE.c.id))
    query = query.order_by(_ordered(key, after))
    query = query.where(_LABELS.c.label == which.label, *which.residual({"label"}))
    if which.product is not None:
        query = query.where(_LABELS.c.product == which.product)
    query = query if after is None else query.where(key > str(after))
    return query if before is None else query.where(key < str(before))


def _ids_by_score(
    session: Session, which: InspectionFilter, before: UUID | None, after: UUID | None, limit: int
) -> Sequence[str] | None:
    """Return the ids of a page that is read by score; None if there is no range of scores, or many are in it."""
    if not which.scores or which.is_selective or which.is_impossible or which.label is not None:
        return None
    rows = session.execute(score_statement(session, which, before, limit, after)).all()
    return None if rows[0].number > RARE_SCORES else [row.id for row in rows if row.id is not None]


def score_statement(
    session: Session, which: InspectionFilter, before: UUID | None, limit: int, after: UUID | None = None
) -> Select[tuple[int, str | None]]:
    """Return the statement that reads a range of scores: how many inspections are in it, and the ids of a page of them.

    It reads at most `RARE_SCORES` + 1 inspections, each once. If there are more, the ids are not those of the page. The
    number is in each row; the id is None if no inspection of the range is on the page.
    """
    # Without a product, all products are listed, because the index begins with the product.
    given = which.values["product"]
    products = _products(session) if given is None else given
    matches = and_(true(), *which.residual({"product", "score"}))
    in_range = (
        select(_TABLE.c.id, matches.label("matches"))
        .where(_TABLE.c.product.in_(products), *which.scores)
        .limit(RARE_SCORES + 1)
        .cte("in_range")
    )
    counted = select(func.count().label("number")).select_from(in_range).subquery()
    beyond = [] if before is None else [in_range.c.id < str(before)]
    beyond += [] if after is None else [in_range.c.id > str(after)]
    page = select(in_range.c.id).where(in_range.c.matches, *beyond)
    page_of_ids = page.order_by(_ordered(in_range.c.id, after)).limit(limit).subquery()
    return select(counted.c.number, page_of_ids.c.id).select_from(counted.outerjoin(page_of_ids, true()))


def _products(session: Session) -> Sequence[str]:
    """Return the products of all inspections. Reads one row of the index per product, not every row."""
    found: list[str] = []
    while True:
        query = select(_TABLE.c.product).order_by(_TABLE.c.product).limit(1)
        following = session.scalar(query.where(_TABLE.c.product > found[-1]) if found else query)
        if following is None:
            return found
        found.append(following)


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
            with reading(engine) as session:
                raise missing_inspection(session, missing[0])
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
