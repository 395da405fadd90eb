"""Evaluation of reviews: the queue of inspections to review, agreement of reviewers, rates of wrong decisions."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

from sqlalchemy import Engine

from service.deployment.errors import ProductNotReady, UnknownProduct
from service.deployment.registry import Registry
from service.errors import InvalidRequest
from service.inspection.decision import Thresholds, decide
from service.monitoring.clock import Clock
from service.reviews.errors import ReviewsBusy
from service.reviews.rates import Rates, cells_of, estimate_rates
from service.reviews.sampling import JudgedImage, SamplePlan, Stratum, draw, hash_of
from service.schemas.inspection import InspectionLabel, VerdictName
from service.schemas.review import QueueReason
from service.serving.review_agreement import Agreement, agreement_of
from service.store.inspection_filter import InspectionFilter
from service.store.inspections import list_inspections
from service.store.record_removal.state import records_removed_until
from service.store.records import LabelledImage
from service.store.review_queries import (
    creation_times,
    current_reviews,
    invalid_labels,
    judged_images,
    reviewed_ids,
)
from service.store.shadows import disagreeing_ids
from service.store.store import Store

MAX_EVALUATIONS = 4
"""Evaluations at the same time. Each keeps some information about up to `MAX_INSPECTIONS` in memory."""
_WAIT_S = 2.0
DEFAULT_DAYS = 7
MAX_INSPECTIONS = 100_000
"""Most inspections of a period that are considered, the newest ones."""
MAX_REVIEWS = 200_000
"""Most reviews that the agreement is computed from, the newest ones."""

Basis = Literal["decisions", "current", "proposed"]
Confusion = dict[InspectionLabel, dict[str, int]]


@dataclass(frozen=True)
class PeriodRequest:
    """The inspections to sample.

    Attributes:
        product: The product.
        since: Inclusive start; None for midnight UTC `DEFAULT_DAYS` days ago.
        until: Exclusive end; None for no end.
        plan: How many to draw.
        stations: Only inspections at these stations; None for all.
    """

    product: str
    since: datetime | None
    until: datetime | None
    plan: SamplePlan
    stations: tuple[str, ...] | None = None


@dataclass(frozen=True)
class SampledPeriod:
    """The judged inspections of a period and the sample from them.

    Attributes:
        product: The product.
        since: Inclusive start.
        until: Exclusive end; None for no end.
        images: The inspections by id, newest first.
        is_cut: Whether the period has more inspections.
        strata: Their strata with the sample.
        stations: Only inspections at these stations; None for all.
        records_removed_until: Time of the newest record that was removed, if it is in the period or later.
    """

    product: str
    since: datetime
    until: datetime | None
    images: dict[str, LabelledImage]
    is_cut: bool
    strata: list[Stratum]
    stations: tuple[str, ...] | None = None
    records_removed_until: datetime | None = None

    @property
    def labels(self) -> dict[str, InspectionLabel]:
        """The labels of the inspections that have one."""
        return {image.id: image.label for image in self.images.values() if image.label is not None}


@dataclass(frozen=True)
class QueuedInspection:
    """An inspection to review.

    Attributes:
        image: The inspection.
        reasons: Why it is in the queue.
        probability: Probability with which the sample contains it; None if it is not part of the sample.
    """

    image: LabelledImage
    reasons: tuple[QueueReason, ...]
    probability: float | None


@dataclass(frozen=True)
class ReviewQueue:
    """What a reviewer should review.

    Attributes:
        total: Number of inspections in the queue.
        items: Those that were asked for.
    """

    total: int
    items: list[QueuedInspection]


@dataclass(frozen=True)
class ScoredThresholds:
    """Thresholds and the bundle on whose score scale they are."""

    thresholds: Thresholds
    bundle: str


@dataclass(frozen=True)
class RatesOf:
    """Rates of one kind of decisions.

    Attributes:
        basis: The kind of decisions.
        applied: The thresholds that make them; None for the decisions as they were made.
        confusion: Number of inspections by label and decision.
        rates: The estimated rates.
    """

    basis: Basis
    applied: ScoredThresholds | None
    confusion: Confusion
    rates: Rates


class ReviewEvaluation:
    """Evaluates reviews. All methods block.

    Args:
        registry: Products and the bundles that serve them.
        store: Stored inspections and reviews.
        clock: The time of day.
    """

    def __init__(self, registry: Registry, store: Store, clock: Clock) -> None:
        self._registry = registry
        self._store = store
        self._clock = clock
        self._slots = threading.BoundedSemaphore(MAX_EVALUATIONS)

    @contextmanager
    def slot(self) -> Iterator[None]:
        """Hold one of the places for evaluations until the block ends.

        Raises:
            ReviewsBusy: Too many evaluations are running.
        """
        if not self._slots.acquire(timeout=_WAIT_S):
            raise ReviewsBusy("reports on reviews", MAX_EVALUATIONS)
        try:
            yield
        finally:
            self._slots.release()

    def sample(self, request: PeriodRequest) -> SampledPeriod:
        """Return the judged inspections of a period and the sample from them.

        Raises:
            UnknownProduct: There is no such product.
            InvalidRequest: The period ends before it begins.
            StoreUnavailable: The database cannot be used.
        """
        self.require_known(request.product)
        since = request.since or _midnight(self._clock.now()) - timedelta(days=DEFAULT_DAYS)
        if request.until is not None and request.until <= since:
            raise InvalidRequest(f"The period ends before it begins: `until` must be after {since.isoformat()}.")
        return sample_period(self._store.engine, request, since)

    def queue(self, period: SampledPeriod, reviewer: str, after: str | None = None) -> ReviewQueue:
        """Return the inspections that a reviewer should review.

        First those with the decision `review`, then the other sampled ones, then those about which the active and a
        shadow bundle disagree. Within each group the order is that of the hashes, so whatever part of the queue is
        done, it is a random sample. Inspections that the reviewer has reviewed, and those without a stored image, are
        left out.

        Args:
            period: The inspections.
            reviewer: The reviewer.
            after: Id of the inspection after which the items begin, whether it was reviewed or not. If it is not in the
                period, or not to be reviewed by anyone, they begin with the first.

        Raises:
            StoreUnavailable: The database cannot be used.
        """
        reasons: dict[str, list[QueueReason]] = {}
        probabilities: dict[str, float] = {}
        for stratum in period.strata:
            for image in stratum.drawn:
                reasons[image.id] = ["review" if image.decision == "review" else "sample"]
                probabilities[image.id] = stratum.probability
        engine = self._store.engine
        for name in disagreeing_ids(engine, period.product, period.since, period.until, MAX_INSPECTIONS):
            if name in period.images:
                reasons.setdefault(name, []).append("shadow")
        done = reviewed_ids(engine, period.product, reviewer)
        ranks = {"review": 0, "sample": 1, "shadow": 2}
        order = sorted(reasons, key=lambda name: (ranks[reasons[name][0]], hash_of(name), name))
        is_open = {name: name not in done and period.images[name].has_image for name in order}
        following = order[order.index(after) + 1 :] if after is not None and after in reasons else order
        items = [
            QueuedInspection(period.images[name], tuple(reasons[name]), probabilities.get(name))
            for name in following
            if is_open[name]
        ]
        return ReviewQueue(sum(is_open.values()), items)

    def times(self, items: list[QueuedInspection]) -> dict[str, datetime]:
        """Return when inspections of the queue were made, by id.

        Raises:
            StoreUnavailable: The database cannot be used.
        """
        return creation_times(self._store.engine, [item.image.id for item in items])

    def agreement(self, product: str, stations: Collection[str] | None = None) -> Agreement:
        """Return how far the reviewers of a product agree.

        Args:
            product: The product.
            stations: Only inspections at these stations; None for all.

        Raises:
            UnknownProduct: There is no such product.
            StoreUnavailable: The database cannot be used.
        """
        self.require_known(product)
        reviews, is_cut = current_reviews(self._store.engine, product, MAX_REVIEWS, stations=stations)
        return agreement_of(reviews, is_cut=is_cut)

    def rates(self, period: SampledPeriod, fail: float | None, review: float | None) -> list[RatesOf]:
        """Estimate the rates of wrong decisions.

        Args:
            period: The inspections.
            fail: Proposed fail threshold; None for the one in force.
            review: Proposed review threshold; None for the one in force.

        Returns:
            The rates of the decisions as they were made; those of the thresholds in force, if a bundle is active; those
            of the proposed thresholds, if at least one is given.

        Raises:
            ProductNotReady: Only one threshold is proposed or none, and no bundle is active, which has the other one.
            InvalidRequest: The review threshold is above the fail threshold.
            StoreUnavailable: The database cannot be used.
        """
        found = [rates_of(self._store.engine, period)]
        current = self._current_thresholds(period.product)
        if current is not None:
            found.append(rates_of(self._store.engine, period, "current", current))
        if fail is None and review is None:
            return found
        if current is None:  # the error explains why no bundle is active
            current = self._active_thresholds(period.product)
        fail = current.thresholds.fail if fail is None else fail
        review = current.thresholds.review if review is None else review
        if review > fail:
            raise InvalidRequest(
                f"The review threshold {review:g} is above the fail threshold {fail:g}. Give a review threshold of at "
                "most the fail threshold."
            )
        proposed = ScoredThresholds(Thresholds(fail, review), current.bundle)
        return [*found, rates_of(self._store.engine, period, "proposed", proposed)]

    def require_known(self, product: str) -> None:
        """Check that a product exists, or existed: inspections of it are stored.

        Raises:
            UnknownProduct: It does not.
        """
        if not list_inspections(self._store.engine, InspectionFilter(product), limit=1):
            self._registry.products.look_up(product)

    def _current_thresholds(self, product: str) -> ScoredThresholds | None:
        try:
            return self._active_thresholds(product)
        except (UnknownProduct, ProductNotReady):
            return None

    def _active_thresholds(self, product: str) -> ScoredThresholds:
        active = self._registry.get(product)
        return ScoredThresholds(active.recipe.recipe.thresholds, active.bundle.version)


def sample_period(engine: Engine, request: PeriodRequest, since: datetime) -> SampledPeriod:
    """Return the judged inspections of a period and the sample from them.

    Args:
        engine: The database.
        request: The inspections to sample.
        since: Inclusive start of the period; that of the request is not read.

    Raises:
        StoreUnavailable: The database cannot be used.
    """
    limit, stations = MAX_INSPECTIONS + 1, request.stations
    found = judged_images(engine, request.product, since, request.until, limit, stations=stations)
    images = {image.id: image for image in found[:MAX_INSPECTIONS]}
    strata = draw([_judged(image) for image in images.values()], request.plan)
    is_cut = len(found) > MAX_INSPECTIONS
    removed_until = records_removed_until(engine, [request.product], since)
    return SampledPeriod(request.product, since, request.until, images, is_cut, strata, stations, removed_until)


def rates_of(
    engine: Engine, period: SampledPeriod, basis: Basis = "decisions", applied: ScoredThresholds | None = None
) -> RatesOf:
    """Estimate the rates of wrong decisions of one kind.

    Args:
        engine: The database.
        period: The inspections.
        basis: The kind of decisions.
        applied: The thresholds that make them; None for the decisions as they were made.

    Raises:
        StoreUnavailable: The database cannot be used.
    """

    def decided(image: JudgedImage) -> VerdictName:
        if applied is None:
            return image.decision
        decision: VerdictName = decide(image.score, applied.thresholds).value  # type: ignore[assignment]
        return decision

    strata = [stratum for stratum in period.strata if applied is None or stratum.bundle == applied.bundle]
    labels = period.labels
    confusion: Confusion = {}
    for stratum in strata:
        for image in stratum.members:
            if (label := labels.get(image.id)) is not None:
                row = confusion.setdefault(label, {})
                row[decided(image)] = row.get(decided(image), 0) + 1
    if applied is None:
        invalid = invalid_labels(engine, period.product, period.since, period.until, stations=period.stations)
        for name, count in invalid.items():
            confusion.setdefault(name, {})["invalid"] = count  # type: ignore[arg-type]  # only reviews write it
    return RatesOf(basis, applied, confusion, estimate_rates(cells_of(strata, labels, decided)))


def _judged(image: LabelledImage) -> JudgedImage:
    return JudgedImage(image.id, image.decision, image.score, image.bundle_version)


def _midnight(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
