"""Queries for reviews and labels of many inspections."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Engine, Select, func, select
from sqlalchemy.orm import aliased

from service.reviews.labels import CombinedLabel
from service.schemas.review import ReviewLabel
from service.store.models import InspectionLabelRow, InspectionRow, ReviewRow
from service.store.records import InspectionRecord, LabelledImage
from service.store.session import reading

_AT_ONCE = 500
_INSPECTIONS, _LABELS = InspectionRow.__table__, InspectionLabelRow.__table__


def labels_of(engine: Engine, inspection_ids: Sequence[str]) -> dict[str, CombinedLabel]:
    """Return the labels of those of the inspections that have one.

    Raises:
        StoreUnavailable: The database cannot be read.
    """
    found: dict[str, CombinedLabel] = {}
    columns = (_LABELS.c.inspection_id, _LABELS.c.label, _LABELS.c.kind)
    with reading(engine) as session:
        for start in range(0, len(inspection_ids), _AT_ONCE):
            piece = _LABELS.c.inspection_id.in_(inspection_ids[start : start + _AT_ONCE])
            for name, label, kind in session.execute(select(*columns).where(piece)):
                found[name] = CombinedLabel(label, kind)
    return found


def labelled_ids(
    engine: Engine,
    product: str,
    label: str,
    since: datetime | None,
    until: datetime | None,
    limit: int,
    *,
    with_image: bool = False,
) -> list[UUID]:
    """Return the judged inspections of a product that have a label, oldest first.

    Args:
        engine: The database.
        product: The product.
        label: The label.
        since: Inclusive start of the period; None for no start.
        until: Exclusive end of the period; None for no end.
        limit: Maximum number of inspections.
        with_image: Only inspections whose image retention has not removed.

    Raises:
        StoreUnavailable: The database cannot be read.
    """
    query = _labelled(select(_LABELS.c.inspection_id), product, since, until)
    query = query.where(_LABELS.c.label == label, _INSPECTIONS.c.score.is_not(None)).limit(limit)
    if with_image:
        query = query.where(_INSPECTIONS.c.artefacts_removed_at.is_(None))
    with reading(engine) as session:
        return [UUID(name) for name in session.scalars(query)]


def count_labelled(
    engine: Engine,
    product: str,
    since: datetime | None,
    until: datetime | None,
    *,
    stations: Collection[str] | None = None,
) -> int:
    """Return the number of inspections of a product with the label good or defect.

    The arguments are those of `labelled_ids`, and `stations` those of `judged_images`.

    Raises:
        StoreUnavailable: The database cannot be read.
    """
    query = _labelled(select(func.count()), product, since, until, is_ordered=False).where(*_at(stations))
    with reading(engine) as session:
        return session.scalar(query.where(_LABELS.c.label.in_(("good", "defect")))) or 0


def labelled_inspections(
    engine: Engine,
    product: str,
    since: datetime | None,
    until: datetime | None,
    *,
    stations: Collection[str] | None = None,
) -> Iterator[tuple[InspectionRecord, CombinedLabel]]:
    """Iterate over the inspections of a product with the label good or defect, oldest first, in pieces.

    The arguments are those of `labelled_ids`, and `stations` those of `judged_images`.

    Raises:
        StoreUnavailable: The database cannot be read.
    """
    columns = (_INSPECTIONS, _LABELS.c.label.label("label"), _LABELS.c.kind.label("kind"))
    query = _labelled(select(*columns), product, since, until).where(*_at(stations))
    query = query.where(_LABELS.c.label.in_(("good", "defect")))
    after = ""
    while True:
        with reading(engine) as session:
            page = session.execute(query.where(_LABELS.c.inspection_id > after).limit(_AT_ONCE)).mappings().all()
        for row in page:
            values: dict[str, Any] = dict(row)
            label = CombinedLabel(values.pop("label"), values.pop("kind"))
            yield InspectionRecord(**values), label
        if len(page) < _AT_ONCE:
            return
        after = page[-1]["id"]


def newest_labelled(engine: Engine, product: str, limit: int) -> list[tuple[InspectionRecord, CombinedLabel]]:
    """Return the newest inspections of a product that have a label, newest first.

    Args:
        engine: The database.
        product: The product.
        limit: Maximum number of inspections.

    Raises:
        StoreUnavailable: The database cannot be read.
    """
    columns = (_INSPECTIONS, _LABELS.c.label.label("label"), _LABELS.c.kind.label("kind"))
    query = _labelled(select(*columns), product, None, None, is_ordered=False)
    query = query.order_by(_LABELS.c.inspection_id.desc()).limit(limit)
    found = []
    with reading(engine) as session:
        for row in session.execute(query).mappings():
            values: dict[str, Any] = dict(row)
            label = CombinedLabel(values.pop("label"), values.pop("kind"))
            found.append((InspectionRecord(**values), label))
    return found


def creation_times(engine: Engine, inspection_ids: Sequence[str]) -> dict[str, datetime]:
    """Return when inspections were made.

    Raises:
        StoreUnavailable: The database cannot be read.
    """
    found: dict[str, datetime] = {}
    with reading(engine) as session:
        for start in range(0, len(inspection_ids), _AT_ONCE):
            piece = _INSPECTIONS.c.id.in_(inspection_ids[start : start + _AT_ONCE])
            for name, moment in session.execute(select(_INSPECTIONS.c.id, _INSPECTIONS.c.created_at).where(piece)):
                found[name] = moment
    return found


def judged_images(
    engine: Engine,
    product: str,
    since: datetime,
    until: datetime | None,
    limit: int,
    *,
    stations: Collection[str] | None = None,
) -> list[LabelledImage]:
    """Return the judged inspections of a product in a period with their labels, newest first.

    Args:
        engine: The database.
        product: The product.
        since: Inclusive start of the period.
        until: Exclusive end of the period; None for no end.
        limit: Maximum number of inspections.
        stations: Only inspections at these stations; None for all.

    Raises:
        StoreUnavailable: The database cannot be read.
    """
    columns = (
        _INSPECTIONS.c.id,
        _INSPECTIONS.c.decision,
        _INSPECTIONS.c.score,
        _INSPECTIONS.c.bundle_version,
        _INSPECTIONS.c.artefacts_removed_at.is_(None),
        _LABELS.c.label,
    )
    query = (
        select(*columns)
        .outerjoin(_LABELS, _LABELS.c.inspection_id == _INSPECTIONS.c.id)
        .where(*_in_period(product, since, until), *_at(stations), _INSPECTIONS.c.score.is_not(None))
        .order_by(_INSPECTIONS.c.created_at.desc())
        .limit(limit)
    )
    with reading(engine) as session:
        return [LabelledImage(*row) for row in session.execute(query)]


def invalid_labels(
    engine: Engine,
    product: str,
    since: datetime,
    until: datetime | None,
    *,
    stations: Collection[str] | None = None,
) -> dict[str, int]:
    """Return the number of inspections by label whose image was rejected by the quality check.

    The arguments are those of `judged_images`.

    Raises:
        StoreUnavailable: The database cannot be read.
    """
    query = _labelled(select(_LABELS.c.label, func.count()), product, since, until, is_ordered=False)
    query = query.where(_INSPECTIONS.c.score.is_(None), *_at(stations))
    with reading(engine) as session:
        counts = session.execute(query.group_by(_LABELS.c.label))
        return {label: count for label, count in counts}  # noqa: C416 - rows are not pairs for the type checker


def reviewed_ids(engine: Engine, product: str, reviewer: str) -> set[str]:
    """Return the inspections of a product of which a reviewer has a current review.

    Raises:
        StoreUnavailable: The database cannot be read.
    """
    query = _not_withdrawn(select(ReviewRow.inspection_id)).where(
        ReviewRow.product == product, ReviewRow.reviewer == reviewer
    )
    with reading(engine) as session:
        return set(session.scalars(query))


def kinds_of(
    engine: Engine, product: str, limit: int, *, stations: Collection[str] | None = None
) -> list[tuple[str, int]]:
    """Return the kinds of defects that reviewers of a product named, with the number of reviews, most frequent first.

    Reviews that were withdrawn do not count.

    Args:
        engine: The database.
        product: The product.
        limit: Maximum number of kinds.
        stations: Only inspections at these stations; None for all.

    Raises:
        StoreUnavailable: The database cannot be read.
    """
    count = func.count().label("count")
    query = _not_withdrawn(select(ReviewRow.kind, count)).where(
        ReviewRow.product == product, ReviewRow.kind.is_not(None)
    )
    query = _reviewed_at(query, stations).group_by(ReviewRow.kind).order_by(count.desc(), ReviewRow.kind).limit(limit)
    with reading(engine) as session:
        return [(kind, number) for kind, number in session.execute(query)]


def current_reviews(
    engine: Engine, product: str, limit: int, *, stations: Collection[str] | None = None
) -> tuple[dict[str, dict[str, ReviewLabel]], bool]:
    """Return the current reviews of a product.

    Args:
        engine: The database.
        product: The product.
        limit: Maximum number of reviews, replaced ones included, newest first.
        stations: Only inspections at these stations; None for all.

    Returns:
        The label by inspection and reviewer, and whether there are more reviews than the limit.

    Raises:
        StoreUnavailable: The database cannot be read.
    """
    columns = (ReviewRow.inspection_id, ReviewRow.reviewer, ReviewRow.label)
    query = _reviewed_at(_not_withdrawn(select(*columns)).where(ReviewRow.product == product), stations)
    found: dict[str, dict[str, ReviewLabel]] = {}
    with reading(engine) as session:
        rows = session.execute(query.order_by(ReviewRow.id.desc()).limit(limit + 1)).all()
    for name, reviewer, label in rows[:limit]:
        found.setdefault(name, {}).setdefault(reviewer, label)
    return found, len(rows) > limit


def current_reviews_of(engine: Engine, inspection_ids: Sequence[str]) -> dict[str, dict[str, ReviewLabel]]:
    """Return the current reviews of inspections: the label by inspection and reviewer.

    Raises:
        StoreUnavailable: The database cannot be read.
    """
    columns = (ReviewRow.inspection_id, ReviewRow.reviewer, ReviewRow.label)
    found: dict[str, dict[str, ReviewLabel]] = {}
    with reading(engine) as session:
        for start in range(0, len(inspection_ids), _AT_ONCE):
            piece = ReviewRow.inspection_id.in_(inspection_ids[start : start + _AT_ONCE])
            query = _not_withdrawn(select(*columns)).where(piece).order_by(ReviewRow.id.desc())
            for name, reviewer, label in session.execute(query):
                found.setdefault(name, {}).setdefault(reviewer, label)
    return found


def _not_withdrawn(query: Select[*tuple[Any, ...]]) -> Select[*tuple[Any, ...]]:
    """Return a query for reviews without withdrawals and without reviews that were withdrawn."""
    other = aliased(ReviewRow)
    withdrawal = select(other.id).where(other.withdraws == ReviewRow.id).exists()
    return query.where(ReviewRow.label.is_not(None), ~withdrawal)


def _labelled(
    query: Select[Any], product: str, since: datetime | None, until: datetime | None, *, is_ordered: bool = True
) -> Select[Any]:
    joined = query.select_from(_LABELS).join(_INSPECTIONS, _INSPECTIONS.c.id == _LABELS.c.inspection_id)
    joined = joined.where(_LABELS.c.product == product, *_in_period(product, since, until))
    return joined.order_by(_LABELS.c.inspection_id) if is_ordered else joined


def _at(stations: Collection[str] | None) -> list[Any]:
    return [] if stations is None else [_INSPECTIONS.c.station.in_(sorted(stations))]


def _reviewed_at(query: Select[Any], stations: Collection[str] | None) -> Select[Any]:
    """Return a query for reviews of inspections at certain stations only."""
    if stations is None:
        return query
    return query.join(_INSPECTIONS, _INSPECTIONS.c.id == ReviewRow.inspection_id).where(*_at(stations))


def _in_period(product: str, since: datetime | None, until: datetime | None) -> list[Any]:
    conditions: list[Any] = [_INSPECTIONS.c.product == product]
    if since is not None:
        conditions.append(_INSPECTIONS.c.created_at >= since)
    if until is not None:
        conditions.append(_INSPECTIONS.c.created_at < until)
    return conditions
