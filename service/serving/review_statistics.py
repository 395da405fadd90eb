"""Map statistics of reviews to the schemas that responses and reports contain."""

from __future__ import annotations

from typing import get_args

from service.reviews.rates import Estimate
from service.schemas.review import PairAgreement, RateEstimate, ReviewLabel
from service.serving.review_agreement import ReviewedPair

LABELS: tuple[ReviewLabel, ...] = get_args(ReviewLabel)


def to_pair(pair: ReviewedPair) -> PairAgreement:
    """Map the agreement of two reviewers."""
    low, high = pair.kappa.interval or (None, None)
    return PairAgreement(
        first=pair.first,
        second=pair.second,
        inspections=pair.kappa.images,
        agreement=pair.kappa.agreement,
        kappa=pair.kappa.kappa,
        kappa_low=low,
        kappa_high=high,
        counts={first: {second: pair.counts[first, second] for second in LABELS} for first in LABELS},
    )


def to_estimate(estimate: Estimate) -> RateEstimate:
    """Map an estimated rate."""
    return RateEstimate(
        rate=estimate.rate,
        low=estimate.low,
        high=estimate.high,
        count=estimate.count,
        of=estimate.of,
        method=estimate.method,
    )
