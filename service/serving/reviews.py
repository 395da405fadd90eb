"""Reviews: labels that people give to inspections, and the export of labelled images."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from service.deployment.registry import Registry
from service.errors import InvalidRequest
from service.monitoring.clock import Clock
from service.monitoring.metrics import Metrics
from service.reviews.labels import CombinedLabel
from service.serving.review_evaluation import ReviewEvaluation
from service.serving.review_export import Export, Exporter, ExportTask
from service.store.audit import Actor
from service.store.ids import parse_id
from service.store.records import StoredReview
from service.store.review_queries import kinds_of, labels_of
from service.store.reviews import ReviewDraft, Reviews, add_review, get_reviews, withdraw_review
from service.store.store import Store

MAX_KINDS = 100
"""Most kinds of defects that are listed."""


class ReviewService:
    """Stores reviews and exports labelled images. All methods block.

    Args:
        registry: Products and the bundles that serve them.
        store: Stored inspections and reviews.
        metrics: Counts reviews.
        clock: The time of day.

    Attributes:
        evaluation: The queue, the agreement of reviewers and the rates of wrong decisions.
    """

    def __init__(self, registry: Registry, store: Store, metrics: Metrics, clock: Clock) -> None:
        self._store = store
        self._metrics = metrics
        self._clock = clock
        self._exporter = Exporter(store)
        self.evaluation = ReviewEvaluation(registry, store, clock)

    def add(self, inspection_id: str, draft: ReviewDraft) -> tuple[Reviews, StoredReview, bool]:
        """Store a review.

        Returns:
            All reviews of the inspection, the reviewer's current one, and whether it is new: see `add_review`.

        Raises:
            UnknownInspection: There is no inspection with this id.
            StoreUnavailable: The review could not be stored.
        """
        self._store.require_writable()
        reviews, review, is_new = add_review(self._store.engine, parse_id(inspection_id), draft, self._clock.now())
        if is_new:
            self._metrics.reviews.labels(reviews.product, reviews.decision, draft.label).inc()
        return reviews, review, is_new

    def withdraw(self, inspection_id: str, actor: Actor, review_id: int | None) -> Reviews:
        """Withdraw the newest review of a reviewer.

        Raises:
            NoReviewToWithdraw: There is none, or it is not the stated one.
            UnknownInspection: There is no inspection with this id.
            StoreUnavailable: The withdrawal could not be stored.
        """
        self._store.require_writable()
        return withdraw_review(self._store.engine, parse_id(inspection_id), actor, review_id, self._clock.now())

    def history(self, inspection_id: str) -> Reviews:
        """Return all reviews of an inspection.

        Raises:
            UnknownInspection: There is no inspection with this id.
            StoreUnavailable: The database cannot be used.
        """
        return get_reviews(self._store.engine, parse_id(inspection_id))

    def labels(self, inspection_ids: Sequence[str]) -> dict[str, CombinedLabel]:
        """Return the labels of those of the inspections that have one.

        Raises:
            StoreUnavailable: The database cannot be used.
        """
        return labels_of(self._store.engine, inspection_ids)

    def kinds(self, product: str, stations: Collection[str] | None = None) -> list[tuple[str, int]]:
        """Return the kinds of defects that reviewers of a product named, and how often, most frequent first.

        Args:
            product: The product.
            stations: Only inspections at these stations; None for all.

        Raises:
            UnknownProduct: There is no such product.
            StoreUnavailable: The database cannot be used.
        """
        self.evaluation.require_known(product)
        return kinds_of(self._store.engine, product, MAX_KINDS, stations=stations)

    def export(self, task: ExportTask) -> Export:
        """Begin an export of labelled images. The caller must close it.

        Raises:
            UnknownProduct: There is no such product.
            PlumblineError: See `Exporter.open`.
        """
        self.evaluation.require_known(task.product)
        return self._exporter.open(task)


def as_reviewer(actor: Actor, stated: str | None) -> Actor:
    """Return the actor under whose name a review is stored.

    Args:
        actor: Who sends the request.
        stated: The name in the request; None without.

    Raises:
        InvalidRequest: The actor is authenticated and states another name.
    """
    if actor.kind != "local" and stated not in {None, actor.name}:
        raise InvalidRequest(
            f"The request is authenticated as {actor.name!r}, so it cannot be in the name of {stated!r}. Omit "
            "`reviewer`."
        )
    return actor.signed(stated)
