"""Judge a stored image again: for a shadow deployment, and to replay a verdict."""

from __future__ import annotations

from service.deployment.reference_scores import ReferenceScores
from service.deployment.stored_image import decoding_stored
from service.inspection.decoding.pixel_formats import PixelRules
from service.inspection.inspector import Inspector
from service.inspection.records import Inspection
from service.recipes.recipe import Recipe
from service.store.records import InspectionRecord
from service.store.store import Store


def judge_again(
    store: Store,
    references: ReferenceScores,
    row: InspectionRecord,
    inspector: Inspector,
    recipe: Recipe,
    *,
    copies: int | None = None,
) -> Inspection:
    """Inspect the image of a stored inspection with a bundle and a recipe. It is decoded as it was then.

    Args:
        store: Contains the image.
        references: Reference scores for the p-value.
        row: The stored inspection.
        inspector: The inspector of the bundle.
        recipe: The recipe.
        copies: As for `Inspector.inspect`.

    Raises:
        ArtefactGone: The image is no longer stored.
        StoredImageUnreadable: The image cannot be decoded.
        AreaMismatch: The image does not match the recipe's polygons.
        QueueFull, DeadlineExceeded, ShuttingDown: The inspector cannot process the image now.
        ScoreNotFinite: The graph returned a score that is not finite.
    """
    data = store.files.image_of(row)
    reference = references.scores(inspector.bundle, recipe)
    rules = PixelRules.from_stored(row.image_pixels)
    with decoding_stored(row):
        return inspector.inspect(data, recipe.criteria, reference, rules, copies=copies)
