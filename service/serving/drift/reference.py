"""What the inspections of a product are compared with, and when that changes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

from service.bundle.bundle import Bundle
from service.deployment.reference_scores import ReferenceScores
from service.inspection.area import EVERYTHING
from service.monitoring.drift.records import Reference
from service.recipes.recipe import Recipe
from service.store.records import RecipeRevision

_SECTIONS = {
    "fail_threshold", "review_threshold", "target_false_reject_rate", "review_rate", "derivation", "proposal_id", "roi",
    "ignore", "pixels",
}  # fmt: skip
"""Values of a recipe that change what is compared. A change of others, such as retention, does not end a suspension."""


class ReferenceKeys:
    """Identifies references. A key is computed once per recipe revision, which never changes."""

    def __init__(self) -> None:
        self._keys: dict[tuple[str, int], str] = {}

    def of(self, revision: RecipeRevision) -> str:
        """Return the key of the reference that belongs to a recipe revision and its bundle."""
        name = (revision.product, revision.revision)
        if (key := self._keys.get(name)) is None:
            key = self._keys[name] = reference_key(revision.bundle_digest, revision.recipe)
        return key


def reference_key(bundle_digest: str, recipe: Recipe) -> str:
    """Return what identifies a reference: it changes with the bundle and with what a recalibration changes."""
    values = recipe.model_dump(mode="json", include=_SECTIONS)
    content = json.dumps([bundle_digest, values], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def reference_of(bundle: Bundle, revision: RecipeRevision, scores: ReferenceScores, key: str) -> Reference:
    """Return the reference of a bundle and a recipe revision.

    Only values of good images below the fail threshold are used: see `Observation.is_accepted`. Where inspections
    cannot be compared with the calibration images, there are no values, and the first inspections are the reference:
    scores if only a part of the image is judged, and image quality for proposals and for older bundles, which do not
    record it.

    Args:
        bundle: The bundle.
        revision: The recipe revision.
        scores: Reads the scores of proposals.
        key: Key of the reference.

    Raises:
        StoreUnavailable: The database cannot be read.
    """
    recipe, card = revision.recipe, bundle.card
    values: dict[str, Sequence[float]] = {}
    if recipe.area == EVERYTHING:
        values["score"] = [score for score in scores.scores(bundle, recipe) if score < recipe.fail_threshold]
    if recipe.proposal_id is None and card.quality_of_score is not None:
        for name, column in card.quality_of_score:
            pairs = zip(card.scores, column, strict=True)
            values[name] = [value for score, value in pairs if score < recipe.fail_threshold]
    bound = recipe.rate_bound
    return Reference(
        key=key,
        source="card" if recipe.proposal_id is None else "proposal",
        values=values,
        false_reject_bound=None if bound is None else min(bound.confident, 0.5),
    )
