"""Reviews: an append-only list per inspection, and the label that follows from it.

A review is current if it is the newest one of its reviewer that was not withdrawn.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Engine, Select, delete, func, select, update
from sqlalchemy.orm import Session, aliased

from service.reviews.errors import NoReviewToWithdraw
from service.reviews.labels import CombinedLabel, Opinion, combine
from service.schemas.review import ReviewLabel
from service.store.audit import Actor, AuditEntry, append_audit
from service.store.errors import UnknownInspection
from service.store.models import InspectionLabelRow, InspectionRow, ReviewRow
from service.store.records import InspectionRecord, LabelledImage, StoredReview
from service.store.session import reading, writing

REPEAT_S = 10.0
"""A review with the same content as the reviewer's current one is a repetition within this time, such as a double
click.
"""
_AT_ONCE = 500
_INSPECTIONS, _LABELS = InspectionRow.__table__, InspectionLabelRow.__table__


@dataclass(frozen=True)
class ReviewDraft:
    """A review to append.

    Attributes:
        actor: Who reviews. The name is that of the reviewer.
        label: The label.
        kind: Kind of defect; None for another label, or if it is not named.
        note: A remark; None without one.
    """

    actor: Actor
    label: ReviewLabel
    kind: str | None = None
    note: str | None = None


@dataclass(frozen=True)
class Reviews:
    """The reviews of an inspection.

    Attributes:
        product: Product of the inspection.
        items: All reviews, oldest first.
    """

    product: str
    items: tuple[StoredReview, ...]

    @property
    def current(self) -> Mapping[str, StoredReview]:
        """The current review by reviewer."""
        return {review.reviewer: review for review in self.items if review.withdrawn_at is None}

    @property
    def label(self) -> CombinedLabel | None:
        """The label of the inspection."""
        return combine(Opinion(review.label, review.kind) for review in self.current.values())


def get_reviews(engine: Engine, inspection_id: UUID) -> Reviews:
    """Return the reviews of an inspection.

    Raises:
        UnknownInspection: No inspection has this id.
        StoreUnavailable: The database cannot be read.
    """
    with reading(engine) as session:
        return _reviews(session, str(inspection_id))


def add_review(
    engine: Engine, inspection_id: UUID, draft: ReviewDraft, moment: datetime
) -> tuple[Reviews, StoredReview, bool]:
    """Append a review and update the label of the inspection.

    Args:
        engine: The database.
        inspection_id: The inspection.
        draft: The review.
        moment: The present time.

    Returns:
        The reviews of the inspection, the reviewer's current review, and whether it is new. It is not if the current
        one has the same content and is younger than `REPEAT_S`.

    Raises:
        UnknownInspection: No inspection has this id.
        StoreUnavailable: Nothing was stored.
    """
    with writing(engine, "the review cannot be stored") as session:
        before = _locked_reviews(session, str(inspection_id))
        reviewer = draft.actor.name
        current = before.current.get(reviewer)
        if current is not None and _is_repetition(current, draft, moment):
            return before, current, False
        row = ReviewRow(
            inspection_id=str(inspection_id),
            product=before.product,
            created_at=moment,
            reviewer=reviewer,
            label=draft.label,
            kind=draft.kind,
            note=draft.note,
            withdraws=None,
        )
        session.add(row)
        session.flush()
        after = _reviews(session, str(inspection_id))
        _store_label(session, str(inspection_id), after)
        review = after.current[reviewer]
        entry = AuditEntry(
            actor=draft.actor,
            action="review:add",
            product=before.product,
            object=str(inspection_id),
            before=None if current is None else _facts(current),
            after=_facts(review),
            note=draft.note or "",
        )
        append_audit(session, entry)
        return after, review, True


def withdraw_review(
    engine: Engine, inspection_id: UUID, actor: Actor, review_id: int | None, moment: datetime
) -> Reviews:
    """Withdraw the newest review of a reviewer and update the label. The reviewer's earlier one is current again.

    Args:
        engine: The database.
        inspection_id: The inspection.
        actor: The reviewer.
        review_id: The review, if it was stated. If it is withdrawn already, nothing is changed.
        moment: The present time.

    Raises:
        NoReviewToWithdraw: The reviewer has no review, or the stated one is not the newest of the reviewer.
        UnknownInspection: No inspection has this id.
        StoreUnavailable: Nothing was stored.
    """
    name, reviewer = str(inspection_id), actor.name
    with writing(engine, "the withdrawal of a review cannot be stored") as session:
        before = _locked_reviews(session, name)
        own = [review for review in before.items if review.reviewer == reviewer]
        if any(review.id == review_id and review.withdrawn_at is not None for review in own):
            return before
        newest = before.current.get(reviewer)
        if newest is None or review_id not in {None, newest.id}:
            raise NoReviewToWithdraw(name, reviewer, review_id)
        row = ReviewRow(
            inspection_id=name,
            product=before.product,
            created_at=moment,
            reviewer=reviewer,
            label=None,
            kind=None,
            note=None,
            withdraws=newest.id,
        )
        session.add(row)
        session.flush()
        after = _reviews(session, name)
        _store_label(session, name, after)
        again = after.current.get(reviewer)
        entry = AuditEntry(
            actor=actor,
            action="review:undo",
            product=before.product,
            object=name,
            before=_facts(newest),
            after=None if again is None else _facts(again),
        )
        append_audit(session, entry)
        return after


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
    engine: Engine, product: str, label: str, since: datetime | None, until: datetime | None, limit: int
) -> list[UUID]:
    """Return the judged inspections of a product that have a label, oldest first.

    Args:
        engine: The database.
        product: The product.
        label: The label.
        since: Inclusive start of the period; None for no start.
        until: Exclusive end of the period; None for no end.
        limit: Maximum number of inspections.

    Raises:
        StoreUnavailable: The database cannot be read.
    """
    query = _labelled(select(_LABELS.c.inspection_id), product, since, until)
    query = query.where(_LABELS.c.label == label, _INSPECTIONS.c.score.is_not(None)).limit(limit)
    with reading(engine) as session:
        return [UUID(name) for name in session.scalars(query)]


def count_labelled(engine: Engine, product: str, since: datetime | None, until: datetime | None) -> int:
    """Return the number of inspections of a product with the label good or defect.

    The arguments are those of `labelled_ids`.

    Raises:
        StoreUnavailable: The database cannot be read.
    """
    query = _labelled(select(func.count()), product, since, until, is_ordered=False)
    with reading(engine) as session:
        return session.scalar(query.where(_LABELS.c.label.in_(("good", "defect")))) or 0


def labelled_inspections(
    engine: Engine, product: str, since: datetime | None, until: datetime | None
) -> Iterator[tuple[InspectionRecord, CombinedLabel]]:
    """Iterate over the inspections of a product with the label good or defect, oldest first, in pieces.

    The arguments are those of `labelled_ids`.

    Raises:
        StoreUnavailable: The database cannot be read.
    """
    columns = (_INSPECTIONS, _LABELS.c.label.label("label"), _LABELS.c.kind.label("kind"))
    query = _labelled(select(*columns), product, since, until).where(_LABELS.c.label.in_(("good", "defect")))
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


def judged_images(
    engine: Engine, product: str, since: datetime, until: datetime | None, limit: int
) -> list[LabelledImage]:
    """Return the judged inspections of a product in a period with their labels, newest first.

    Args:
        engine: The database.
        product: The product.
        since: Inclusive start of the period.
        until: Exclusive end of the period; None for no end.
        limit: Maximum number of inspections.

    Raises:
        StoreUnavailable: The database cannot be read.
    """
    columns = (
        _INSPECTIONS.c.id,
        _INSPECTIONS.c.created_at,
        _INSPECTIONS.c.decision,
        _INSPECTIONS.c.score,
        _INSPECTIONS.c.bundle_version,
        _INSPECTIONS.c.artefacts_removed_at.is_(None),
        _LABELS.c.label,
    )
    query = (
        select(*columns)
        .outerjoin(_LABELS, _LABELS.c.inspection_id == _INSPECTIONS.c.id)
        .where(*_in_period(product, since, until), _INSPECTIONS.c.score.is_not(None))
        .order_by(_INSPECTIONS.c.created_at.desc())
        .limit(limit)
    )
    with reading(engine) as session:
        return [LabelledImage(*row) for row in session.execute(query)]


def invalid_labels(engine: Engine, product: str, since: datetime, until: datetime | None) -> dict[str, int]:
    """Return the number of inspections by label whose image was rejected by the quality check.

    The arguments are those of `judged_images`.

    Raises:
        StoreUnavailable: The database cannot be read.
    """
    query = _labelled(select(_LABELS.c.label, func.count()), product, since, until, is_ordered=False)
    with reading(engine) as session:
        counts = session.execute(query.where(_INSPECTIONS.c.score.is_(None)).group_by(_LABELS.c.label))
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


def current_reviews(engine: Engine, product: str, limit: int) -> dict[str, dict[str, ReviewLabel]]:
    """Return the current reviews of a product: the label by inspection and reviewer.

    Args:
        engine: The database.
        product: The product.
        limit: Maximum number of reviews, replaced ones included, newest first.

    Raises:
        StoreUnavailable: The database cannot be read.
    """
    columns = (ReviewRow.inspection_id, ReviewRow.reviewer, ReviewRow.label)
    query = _not_withdrawn(select(*columns)).where(ReviewRow.product == product)
    found: dict[str, dict[str, ReviewLabel]] = {}
    with reading(engine) as session:
        for name, reviewer, label in session.execute(query.order_by(ReviewRow.id.desc()).limit(limit)):
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


def _in_period(product: str, since: datetime | None, until: datetime | None) -> list[Any]:
    conditions: list[Any] = [_INSPECTIONS.c.product == product]
    if since is not None:
        conditions.append(_INSPECTIONS.c.created_at >= since)
    if until is not None:
        conditions.append(_INSPECTIONS.c.created_at < until)
    return conditions


def _locked_reviews(session: Session, inspection_id: str) -> Reviews:
    """Return the reviews of an inspection, and make concurrent reviews of it wait until the transaction ends.

    The statement changes nothing. It locks the row in PostgreSQL and the database in SQLite before anything is read, so
    that the label follows from all reviews.
    """
    session.execute(
        update(InspectionRow)
        .where(InspectionRow.id == inspection_id)
        .values(product=InspectionRow.product)
        .execution_options(synchronize_session=False)
    )
    return _reviews(session, inspection_id)


def _reviews(session: Session, inspection_id: str) -> Reviews:
    product = session.scalar(select(InspectionRow.product).where(InspectionRow.id == inspection_id))
    if product is None:
        raise UnknownInspection(inspection_id)
    rows = session.scalars(
        select(ReviewRow).where(ReviewRow.inspection_id == inspection_id).order_by(ReviewRow.id)
    ).all()
    found = {
        row.id: StoredReview(
            id=row.id,
            inspection_id=row.inspection_id,
            created_at=row.created_at,
            reviewer=row.reviewer,
            label=row.label,  # type: ignore[arg-type]  # only this module writes it
            kind=row.kind,
            note=row.note,
        )
        for row in rows
        if row.label is not None
    }
    for row in rows:
        if row.withdraws is not None:
            found[row.withdraws] = replace(found[row.withdraws], withdrawn_at=row.created_at)
    return Reviews(product, tuple(found.values()))


def _store_label(session: Session, inspection_id: str, reviews: Reviews) -> None:
    label = reviews.label
    session.execute(delete(InspectionLabelRow).where(InspectionLabelRow.inspection_id == inspection_id))
    if label is not None:
        row = InspectionLabelRow(
            inspection_id=inspection_id, product=reviews.product, label=label.label, kind=label.kind
        )
        session.add(row)


def _facts(review: StoredReview) -> dict[str, Any]:
    """Return a review for the audit log."""
    return {"review": review.id, "label": review.label, "kind": review.kind}


def _is_repetition(current: StoredReview, draft: ReviewDraft, moment: datetime) -> bool:
    is_same = (current.label, current.kind, current.note) == (draft.label, draft.kind, draft.note)
    return is_same and abs(moment - current.created_at) < timedelta(seconds=REPEAT_S)
