"""Reviews: an append-only list per inspection, and the label that follows from it.

A review is current if it is the newest one of its reviewer that was not withdrawn.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Engine, delete, select, update
from sqlalchemy.orm import Session

from service.reviews.errors import NoReviewToWithdraw
from service.reviews.labels import CombinedLabel, Opinion, combine
from service.schemas.review import ReviewLabel
from service.store.audit import Actor, AuditEntry, append_audit
from service.store.models import InspectionLabelRow, InspectionRow, ReviewRow
from service.store.record_removal.state import missing_inspection
from service.store.records import StoredReview
from service.store.session import reading, writing

REPEAT_S = 10.0
"""A review with the same content as the reviewer's current one is a repetition within this time, such as a double
click.
"""


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
        decision: Decision of the inspection.
        items: All reviews, oldest first.
    """

    product: str
    decision: str
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


def _locked_reviews(session: Session, inspection_id: str) -> Reviews:
    """Return the reviews of an inspection, and make concurrent reviews of it wait until the transaction ends.

    The statement changes nothing. It locks the row in PostgreSQL and the database in SQLite before anything is read, so
    that the label follows from all reviews. An update would change the transaction of the row in PostgreSQL, from which
    `service.store.inspection_feed` derives when it was inserted.
    """
    if session.get_bind().dialect.name == "postgresql":
        session.execute(select(InspectionRow.id).where(InspectionRow.id == inspection_id).with_for_update())
    else:
        session.execute(
            update(InspectionRow)
            .where(InspectionRow.id == inspection_id)
            .values(product=InspectionRow.product)
            .execution_options(synchronize_session=False)
        )
    return _reviews(session, inspection_id)


def _reviews(session: Session, inspection_id: str) -> Reviews:
    columns = select(InspectionRow.product, InspectionRow.decision).where(InspectionRow.id == inspection_id)
    inspection = session.execute(columns).one_or_none()
    if inspection is None:
        raise missing_inspection(session, inspection_id)
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
    return Reviews(inspection.product, inspection.decision, tuple(found.values()))


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
