"""Previews of recipe changes: the expected false-reject rate, and what stored inspections would have become."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from service.deployment.lease import ActiveProduct
from service.deployment.reference_scores import ReferenceScores
from service.deployment.registry import Registry
from service.inspection.calibration import RateBound, bound_above, certify, rate_above
from service.inspection.decision import Decision
from service.inspection.errors import AreaMismatch
from service.inspection.runtime.threads import run_in_background
from service.recipes.recipe import Recipe
from service.recipes.sections import differences
from service.reviews.labels import CombinedLabel
from service.schemas.recipe import RecipeEdit
from service.serving.errors import PreviewsBusy
from service.serving.recipes import RecipeService
from service.serving.redecision import MAP_CACHE_BYTES, Redecider, is_rejected
from service.store.errors import ArtefactGone
from service.store.inspection_filter import InspectionFilter
from service.store.inspections import list_inspections
from service.store.records import InspectionRecord
from service.store.review_queries import labels_of, newest_labelled
from service.store.store import Store

MAX_LABELLED = 2000
"""Most labelled inspections that are considered, the newest ones."""
MAX_PREVIEWS = 2
_WAIT_S = 5.0
# While a slider moves, a preview follows another within a fraction of a second.
_INPUTS_S = 5.0
_MAX_INPUTS = 4
# Pixel settings that the quality check uses. The others change how the image is read, which stored maps do not show.
_PREVIEWED_PIXELS = frozenset({"pixels.width", "pixels.height"})


@dataclass(frozen=True)
class ThresholdEffect:
    """A threshold, and the share of good parts that is above it.

    Attributes:
        value: The threshold.
        above: Number of reference scores above it.
        bound: Bounds of the share of good parts above it; None if every reference score is.
    """

    value: float
    above: int
    bound: RateBound | None


@dataclass(frozen=True)
class RecipeEffect:
    """What the thresholds of a recipe mean.

    Attributes:
        recipe: The recipe.
        fail: The fail threshold.
        review: The review threshold.
    """

    recipe: Recipe
    fail: ThresholdEffect
    review: ThresholdEffect


@dataclass(frozen=True)
class NearestRates:
    """Rates that the calibration card certifies and whose thresholds are nearest below given ones."""

    false_reject: float
    review: float
    fail_threshold: float
    review_threshold: float


@dataclass(frozen=True)
class Redecided:
    """An inspection with the decision that was made and the one that the proposed recipe makes.

    Attributes:
        record: The inspection.
        label: Its label by reviews; None without a review.
        after: The decision by the proposed recipe; None if it is unknown, because the map was removed, or because the
            image was rejected by the quality check and would be judged.
    """

    record: InspectionRecord
    label: CombinedLabel | None
    after: Decision | None

    @property
    def is_changed(self) -> bool:
        """Whether the decision is known and differs from the stored one."""
        return self.after is not None and self.after.value != self.record.decision


@dataclass(frozen=True)
class RecipePreview:
    """The effect of a changed recipe.

    Attributes:
        active: Bundle and recipe in force.
        before: The recipe in force.
        after: The proposed recipe.
        nearest: Certified rates near the proposed thresholds; None if there are none, or if the reference scores are
            not those of the calibration card.
        newest: The newest inspections of the active bundle, newest first.
        labelled: The newest labelled inspections of the active bundle, newest first.
        not_previewed: Dotted paths of changed values whose effect is not shown.
    """

    active: ActiveProduct
    before: RecipeEffect
    after: RecipeEffect
    nearest: NearestRates | None
    newest: Sequence[Redecided]
    labelled: Sequence[Redecided]
    not_previewed: Sequence[str]


@dataclass(frozen=True)
class _Inputs:
    """The stored inspections of previews, kept for a few seconds."""

    read_at: float
    newest: Sequence[InspectionRecord]
    labelled: Sequence[tuple[InspectionRecord, CombinedLabel]]
    labels: Mapping[str, CombinedLabel]


class RecipePreviewService:
    """Computes previews of recipe changes. All methods block.

    Args:
        registry: Products and the bundles that serve them.
        store: Stored inspections.
        recipes: Builds the proposed recipe.
        references: Reference scores of recipes.
    """

    def __init__(self, registry: Registry, store: Store, recipes: RecipeService, references: ReferenceScores) -> None:
        self._registry = registry
        self._store = store
        self._recipes = recipes
        self._references = references
        self._redecider = Redecider(store, MAP_CACHE_BYTES)
        self._slots = threading.BoundedSemaphore(MAX_PREVIEWS)
        self._lock = threading.Lock()
        self._inputs: OrderedDict[tuple[str, str, int], _Inputs] = OrderedDict()

    def preview(self, product: str, edit: RecipeEdit, limit: int) -> RecipePreview:
        """Return the effect of a changed recipe. Nothing is stored.

        Args:
            product: Name of the product.
            edit: The values to change.
            limit: Number of the newest inspections to decide again.

        Raises:
            UnknownProduct, ProductNotReady: No bundle serves this product.
            InvalidRecipe: The resulting recipe is not valid, or the calibration card cannot certify the rate.
            UnknownProposal, ProposalOutdated: The proposal does not exist or was made for another bundle.
            PreviewsBusy: Too many previews are being computed.
            StoreUnavailable: The database or the maps cannot be read.
        """
        active, proposed = self._recipes.propose(product, edit)
        if not self._slots.acquire(timeout=_WAIT_S):
            raise PreviewsBusy(MAX_PREVIEWS)
        try:
            return run_in_background(lambda: self._preview(active, proposed, limit))
        finally:
            self._slots.release()

    def _preview(self, active: ActiveProduct, proposed: Recipe, limit: int) -> RecipePreview:
        current = active.recipe.recipe
        inputs = self._read(active, limit)
        decided: dict[str, Decision | None] = {}

        def decide(record: InspectionRecord, label: CombinedLabel | None) -> Redecided:
            if record.id not in decided:
                decided[record.id] = self._decide(active, proposed, record)
            return Redecided(record, label, decided[record.id])

        changed = [
            path for path, _, _ in differences(current.model_dump(mode="json"), proposed.model_dump(mode="json"))
        ]
        return RecipePreview(
            active=active,
            before=self._effect(active, current),
            after=self._effect(active, proposed),
            nearest=_nearest_rates(active, proposed),
            newest=[decide(one, inputs.labels.get(one.id)) for one in inputs.newest],
            labelled=[decide(one, label) for one, label in inputs.labelled],
            not_previewed=[path for path in changed if path.startswith("pixels.") and path not in _PREVIEWED_PIXELS],
        )

    def _effect(self, active: ActiveProduct, recipe: Recipe) -> RecipeEffect:
        scores = self._references.scores(active.bundle, recipe)

        def effect(threshold: float) -> ThresholdEffect:
            bound = bound_above(scores, threshold)
            return ThresholdEffect(threshold, sum(score > threshold for score in scores), bound)

        return RecipeEffect(recipe, effect(recipe.fail_threshold), effect(recipe.review_threshold))

    def _decide(self, active: ActiveProduct, recipe: Recipe, record: InspectionRecord) -> Decision | None:
        if is_rejected(record, active.rules.quality_limits, recipe):
            return Decision.INVALID
        if record.score is None:
            return None
        try:
            return self._redecider.decide(active, record, recipe.criteria)
        except (ArtefactGone, AreaMismatch):
            return None

    def _read(self, active: ActiveProduct, limit: int) -> _Inputs:
        """Return the newest and the labelled inspections of the active bundle, read at most `_INPUTS_S` ago."""
        product, digest = active.bundle.manifest.product, active.bundle.digest
        key = product, digest, limit
        with self._lock:
            known = self._inputs.get(key)
        if known is not None and time.monotonic() - known.read_at < _INPUTS_S:
            return known
        engine = self._store.engine
        # Filtered after the limit, so that a bundle that was just activated does not cause a scan of the whole table.
        newest = [
            record
            for record in (list_inspections(engine, InspectionFilter(product), limit=limit) if limit else ())
            if record.bundle_digest == digest
        ]
        inputs = _Inputs(
            read_at=time.monotonic(),
            newest=newest,
            labelled=[
                pair for pair in newest_labelled(engine, product, MAX_LABELLED) if pair[0].bundle_digest == digest
            ],
            labels=labels_of(engine, [record.id for record in newest]),
        )
        with self._lock:
            self._inputs[key] = inputs
            self._inputs.move_to_end(key)
            while len(self._inputs) > _MAX_INPUTS:
                self._inputs.popitem(last=False)
        return inputs


def _nearest_rates(active: ActiveProduct, recipe: Recipe) -> NearestRates | None:
    scores = active.bundle.card.scores
    if recipe.proposal_id is not None:
        return None
    false_reject, review = rate_above(scores, recipe.fail_threshold), rate_above(scores, recipe.review_threshold)
    if false_reject is None or review is None:
        return None
    fail_threshold, review_threshold = certify(scores, false_reject).value, certify(scores, review).value
    return NearestRates(false_reject, review, fail_threshold, review_threshold)
