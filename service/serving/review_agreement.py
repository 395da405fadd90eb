"""Agreement of reviewers about inspections."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from sqlalchemy import Engine

from service.reviews.agreement import Kappa, cohens_kappa, krippendorffs_alpha
from service.schemas.review import ReviewLabel
from service.store.review_queries import current_reviews_of


@dataclass(frozen=True)
class ReviewedPair:
    """Two reviewers and their labels of the inspections that both reviewed."""

    first: str
    second: str
    kappa: Kappa
    counts: Counter[tuple[ReviewLabel, ReviewLabel]]


@dataclass(frozen=True)
class Agreement:
    """Agreement of the reviewers of a product.

    Attributes:
        labels: Number of current reviews by reviewer and label.
        pairs: Pairs of reviewers with common inspections.
        common: Number of inspections with at least two reviewers.
        alpha: Krippendorff's alpha; None if it is undefined.
        is_cut: Whether there are more reviews.
    """

    labels: dict[str, Counter[ReviewLabel]]
    pairs: list[ReviewedPair]
    common: int
    alpha: float | None
    is_cut: bool


def agreement_about(engine: Engine, inspection_ids: Sequence[str], *, is_cut: bool) -> Agreement:
    """Return how far reviewers agree about certain inspections.

    Args:
        engine: The database.
        inspection_ids: The inspections.
        is_cut: Whether there are more of them.

    Raises:
        StoreUnavailable: The database cannot be used.
    """
    return agreement_of(current_reviews_of(engine, inspection_ids), is_cut=is_cut)


def agreement_of(reviews: Mapping[str, Mapping[str, ReviewLabel]], *, is_cut: bool) -> Agreement:
    """Return how far reviewers agree.

    Args:
        reviews: The label by inspection and reviewer.
        is_cut: Whether there are more reviews.
    """
    labels: dict[str, Counter[ReviewLabel]] = {}
    common: dict[tuple[str, str], list[tuple[ReviewLabel, ReviewLabel]]] = {}
    for by_reviewer in reviews.values():
        for reviewer, label in by_reviewer.items():
            labels.setdefault(reviewer, Counter())[label] += 1
        for first, second in combinations(sorted(by_reviewer), 2):
            common.setdefault((first, second), []).append((by_reviewer[first], by_reviewer[second]))
    pairs = [
        ReviewedPair(*names, cohens_kappa([a for a, _ in given], [b for _, b in given]), Counter(given))
        for names, given in sorted(common.items())
    ]
    return Agreement(
        labels=dict(sorted(labels.items())),
        pairs=pairs,
        common=sum(len(by_reviewer) > 1 for by_reviewer in reviews.values()),
        alpha=krippendorffs_alpha([tuple(by_reviewer.values()) for by_reviewer in reviews.values()]),
        is_cut=is_cut,
    )
