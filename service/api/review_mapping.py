"""Map reviews and their evaluation to the schemas of the API."""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from typing import Any

from service.api.mapping import to_links
from service.reviews.sampling import Stratum
from service.schemas.review import (
    AgreementReport,
    AppliedThresholds,
    QueueItem,
    RatesAt,
    RatesReport,
    Review,
    ReviewerFacts,
    ReviewHistory,
    ReviewQueue,
    StratumFacts,
)
from service.serving.review_agreement import Agreement
from service.serving.review_evaluation import RatesOf, SampledPeriod
from service.serving.review_evaluation import ReviewQueue as QueuedInspections
from service.serving.review_statistics import LABELS, to_estimate, to_pair
from service.store.records import StoredReview
from service.store.reviews import Reviews


def to_review(review: StoredReview, reviews: Reviews) -> Review:
    """Map a review.

    Args:
        review: The review.
        reviews: All reviews of the inspection.
    """
    is_current = reviews.current.get(review.reviewer) == review
    return Review(
        id=review.id,
        inspection_id=review.inspection_id,
        created_at=review.created_at,
        reviewer=review.reviewer,
        label=review.label,
        kind=review.kind,
        note=review.note,
        state="current" if is_current else "replaced" if review.withdrawn_at is None else "withdrawn",
        withdrawn_at=review.withdrawn_at,
    )


def to_history(inspection_id: str, reviews: Reviews) -> ReviewHistory:
    """Map all reviews of an inspection."""
    label = reviews.label
    return ReviewHistory(
        inspection_id=inspection_id,
        label=None if label is None else label.label,
        kind=None if label is None else label.kind,
        items=[to_review(review, reviews) for review in reversed(reviews.items)],
    )


def to_queue(period: SampledPeriod, found: QueuedInspections, reviewer: str, times: dict[str, datetime]) -> ReviewQueue:
    """Map a queue.

    Args:
        period: The inspections that it was made from.
        found: The queue.
        reviewer: The reviewer.
        times: When those inspections were made that the response contains, by id.
    """
    items = [
        QueueItem(
            inspection_id=item.image.id,
            created_at=times[item.image.id],
            decision=item.image.decision,
            score=item.image.score,
            label=item.image.label,
            reasons=list(item.reasons),
            inclusion_probability=item.probability,
            links=to_links(item.image.id, period.product),
        )
        for item in found.items
        if item.image.id in times
    ]
    return ReviewQueue(**_period(period), reviewer=reviewer, total=found.total, items=items)


def to_agreement(product: str, agreement: Agreement) -> AgreementReport:
    """Map the agreement of reviewers."""
    return AgreementReport(
        product=product,
        reviewers=[
            ReviewerFacts(reviewer=name, reviews=counts.total(), labels={label: counts[label] for label in LABELS})
            for name, counts in agreement.labels.items()
        ],
        pairs=[to_pair(pair) for pair in agreement.pairs],
        common=agreement.common,
        alpha=agreement.alpha,
        is_cut=agreement.is_cut,
    )


def to_rates(period: SampledPeriod, results: list[RatesOf]) -> RatesReport:
    """Map rates of wrong decisions."""
    return RatesReport(**_period(period), results=[_rates(result) for result in results])


def _period(period: SampledPeriod) -> dict[str, Any]:
    labels = period.labels
    return {
        "product": period.product,
        "since": period.since,
        "until": period.until,
        "inspections": len(period.images),
        "is_cut": period.is_cut,
        "strata": [_stratum(stratum, labels) for stratum in period.strata],
        "records_removed_until": period.records_removed_until,
    }


def _stratum(stratum: Stratum, labels: dict[str, Any]) -> StratumFacts:
    scores = [image.score for image in stratum.members]
    counts = Counter(labels.get(image.id) for image in stratum.drawn)
    return StratumFacts(
        bundle_version=stratum.bundle,
        decision=stratum.decision,
        score_low=min(scores),
        score_high=max(scores),
        inspections=len(stratum.members),
        sampled=len(stratum.drawn),
        reviewed=counts["good"] + counts["defect"],
        inclusion_probability=stratum.probability,
    )


def _rates(result: RatesOf) -> RatesAt:
    applied, rates = result.applied, result.rates
    thresholds = None if applied is None else applied.thresholds
    return RatesAt(
        basis=result.basis,
        thresholds=None
        if thresholds is None or applied is None
        else AppliedThresholds(fail=thresholds.fail, review=thresholds.review, bundle_version=applied.bundle),
        confusion=result.confusion,  # type: ignore[arg-type]  # checked by pydantic
        false_reject=to_estimate(rates.false_reject),
        false_alarm=to_estimate(rates.false_alarm),
        miss=to_estimate(rates.miss),
        unreviewed=rates.unreviewed,
    )
