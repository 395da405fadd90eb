"""Values of a recipe that contradict each other together with the defaults of a bundle.

A recipe alone does not show them: a limit that it leaves out follows from the bundle. So they are examined when a
recipe is changed, and not when a stored one is read: an upgrade of the service must not make a stored recipe
unreadable.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from typing import Any

from service.inspection.quality import QualityLimits
from service.recipes.errors import InvalidRecipe
from service.recipes.recipe import Recipe
from service.recipes.sections import HeatmapSetting
from service.schemas.violations import describe_violations, violation

_MIN, _MAX = "min_", "max_"
PAIRS: tuple[tuple[str, str], ...] = tuple(
    (one.name, other)
    for one in fields(QualityLimits)
    if one.name.startswith(_MIN)
    and (other := one.name.replace(_MIN, _MAX, 1)) in {field.name for field in fields(QualityLimits)}
)
"""Names of the lower and the upper limit of every measure of the quality check that has both."""


def require_consistent(recipe: Recipe, bundle_limits: QualityLimits, scale: tuple[float, float]) -> None:
    """Refuse a recipe with limits that no image can satisfy, or with an empty heatmap scale.

    Args:
        recipe: The recipe.
        bundle_limits: The limits that follow from the calibration images of the bundle that it is for.
        scale: Map values for 0 and for 1 on the scale of the heatmap under the recipe.

    Raises:
        InvalidRecipe: A lower limit is above the upper one of the same measure.
    """
    found = [*_limits(recipe, bundle_limits)]
    low, high = scale
    # A bundle whose good maps are all alike has a scale without extent; only entries of a person can be wrong.
    if low >= high and recipe.heatmap != HeatmapSetting():
        found.append(violation(("heatmap",), "heatmap_scale", low=low, high=high))
    if found:
        raise InvalidRecipe(f"{describe_violations(found)}.", found)


def _limits(recipe: Recipe, bundle_limits: QualityLimits) -> Iterator[dict[str, Any]]:
    """Yield the pairs of limits in force that no image can satisfy, and of which the recipe sets at least one."""
    own, limits = recipe.quality, recipe.quality.combine(bundle_limits, recipe.pixels)
    for lower, upper in PAIRS:
        low, high = getattr(limits, lower), getattr(limits, upper)
        sets_lower, sets_upper = (getattr(own, name, None) is not None for name in (lower, upper))
        if low is None or high is None or low <= high or not (sets_lower or sets_upper):
            continue
        kind = "limit_order" if sets_lower and sets_upper else "limit_above_calibration"
        if not sets_lower:
            kind = "limit_below_calibration"
        where = ("quality", lower if sets_lower else upper)
        yield violation(where, kind, lower=lower, low=float(low), upper=upper, high=float(high))
