"""Judging a stored image once more: for a shadow, and to replay a verdict."""

from __future__ import annotations

from service.deployment.reference_scores import References
from service.inspection.decoding.pixel_formats import PixelRules
from service.inspection.inspector import Inspector
from service.inspection.records import Inspection
from service.recipes.recipe import Recipe
from service.store.records import InspectionRecord
from service.store.store import Store


def judge_again(
    store: Store,
    references: References,
    row: InspectionRecord,
    inspector: Inspector,
    recipe: Recipe,
    *,
    copies: int | None = None,
) -> Inspection:
    """What a bundle with a recipe says about the image of a stored inspection, read as it was read then.

    Args:
        store: Has the image.
        references: Has the scores that p-values are taken against.
        row: The inspection.
        inspector: Of the bundle that judges.
        recipe: What it judges by.
        copies: As `Inspector.inspect`.

    Raises:
        ArtefactGone: The image is not on disk any more.
        AreaMismatch: It does not fit the recipe's polygons.
        QueueFull, DeadlineExceeded, ShuttingDown: It cannot be judged now.
        ScoreNotFinite: The graph computed no score.
    """
    data = store.files.image_of(row)
    reference = references.scores(inspector.bundle, recipe)
    rules = PixelRules.from_stored(row.image_pixels)
    return inspector.inspect(data, recipe.criteria, reference, rules, copies=copies)
