"""The recipe of a product: everything that can be changed without retraining.

A recipe is immutable; a change is a new revision in the store. A recipe is validated as a whole, so a change is never
applied in part.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

from pydantic import BaseModel, Field, ValidationError, model_validator

from service.inspection.area import Area
from service.inspection.calibration import (
    DEFAULT_FAIL_ALPHA,
    DEFAULT_REVIEW_ALPHA,
    RateBound,
    bound_rate,
    certify,
    certify_nearest,
    images_needed,
    smallest_alpha,
)
from service.inspection.calibration import extrapolate as tail_threshold
from service.inspection.decision import Criteria, Thresholds
from service.inspection.regions import RegionFilter
from service.recipes.errors import InvalidRecipe
from service.recipes.sections import RecipeParts, bundle_scale_values, merge
from service.schemas.violations import describe_violations, list_violations, violated, violation

Derivation = Literal["default", "card", "proposal", "tail", "hand"]


class Recipe(RecipeParts):
    """Thresholds of a product, how they were derived, and the other sections of its recipe.

    Attributes:
        fail_threshold: A part fails when its raw score is strictly greater.
        review_threshold: A part needs review when its raw score is strictly greater and it does not fail.
        target_false_reject_rate: The bound on the share of rejected good parts that `fail_threshold` was derived from.
            None where the threshold was set by hand; then nothing is guaranteed.
        review_rate: The bound on the share of good parts above `review_threshold`; None as above.
        certified: Whether the calibration images certify `target_false_reject_rate`.
        calibration_images: Number of good images behind that guarantee.
        derivation: How the thresholds were derived: "card" from the scores of the calibration card for requested rates,
            certified; "default" likewise for the default rates; "proposal" from the good images of a stored proposal,
            certified; "tail" by extrapolating the tail of the card's scores; "hand" set by hand.
        proposal_id: The id of that proposal. P-values are computed against the same images: those of the card where
            this is None.
    """

    fail_threshold: float
    review_threshold: float
    target_false_reject_rate: float | None = Field(default=None, gt=0, lt=1)
    review_rate: float | None = Field(default=None, gt=0, lt=1)
    certified: bool = False
    calibration_images: int = Field(default=0, ge=0)
    derivation: Derivation = "hand"
    proposal_id: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _infer_derivation(cls, values: Any) -> Any:
        """Add the derivation to recipes that were stored before it was recorded."""
        if isinstance(values, Mapping) and "derivation" not in values and values.get("target_false_reject_rate"):
            return {**values, "derivation": "card" if values.get("certified") else "tail"}
        return values

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        if self.review_threshold > self.fail_threshold:
            raise violated("threshold_order", review=self.review_threshold, fail=self.fail_threshold)
        return self

    @model_validator(mode="after")
    def _check_area(self) -> Self:
        size = (self.pixels.width or math.inf, self.pixels.height or math.inf)
        if (corner := self.area.corner_outside(*size)) is not None:
            raise violated("corner_outside", polygons=corner.polygons, number=corner.number, x=corner.x, y=corner.y)
        if not self.area.has_judged_part(*size):
            raise violated("area_empty")
        return self

    @property
    def thresholds(self) -> Thresholds:
        """Return the fail and the review threshold."""
        return Thresholds(fail=self.fail_threshold, review=self.review_threshold)

    @property
    def rate_bound(self) -> RateBound | None:
        """Return what the false-reject rate means on average and for this calibration; None where there is no rate."""
        if self.target_false_reject_rate is None or not self.calibration_images:
            return None
        return bound_rate(self.calibration_images, self.target_false_reject_rate)

    @property
    def area(self) -> Area:
        """Return the part of the image that is judged."""
        return Area(self.roi, self.ignore)

    @property
    def criteria(self) -> Criteria:
        """Return the criteria for the decision core."""
        chosen = self.regions
        filters = RegionFilter(
            merge_distance_px=chosen.merge_distance_px,
            border_margin_px=chosen.border_margin_px,
            min_area_px=chosen.min_area_px,
            min_peak=-math.inf if chosen.min_peak is None else chosen.min_peak,
            max_count=chosen.max_count,
        )
        return Criteria(self.thresholds, self.area, filters)

    def changed(self, parts: Mapping[str, Any], thresholds: Recipe | None = None) -> Recipe:
        """Return this recipe with some values changed.

        Args:
            parts: Sections by name, as `merge` takes them.
            thresholds: The recipe from which to copy the thresholds and their derivation; None keeps them.

        Raises:
            InvalidRecipe: The changed recipe is not valid.
        """
        values = merge(self.model_dump(), parts)
        if thresholds is not None:
            values |= thresholds.model_dump(include=set(THRESHOLD_FIELDS))
        return parse_recipe(values)

    def adapted_to(self, own: Recipe) -> Recipe:
        """Return this recipe for another bundle.

        Values on a bundle's own scale are taken from `own`; values about the camera and the part are kept.

        Args:
            own: A recipe of the other bundle.
        """
        return self.changed(bundle_scale_values(own), own)

    def rederived(self, scores: Sequence[float]) -> Recipe:
        """Return a recipe whose thresholds are derived anew, at this recipe's rates, from another bundle's scores.

        Args:
            scores: The scores of that bundle's calibration card, ascending.

        Raises:
            InvalidRecipe: The thresholds were set by hand, or the card cannot certify the rate.
        """
        if self.target_false_reject_rate is None:
            raise InvalidRecipe(
                f"The thresholds {self.fail_threshold:g} and {self.review_threshold:g} were set by hand for another "
                "bundle and do not apply to the scores of the active bundle. Set a false-reject rate, or thresholds "
                "for this bundle."
            )
        if self.derivation == "default":
            return Recipe.default(scores)
        return Recipe.for_rates(scores, self.target_false_reject_rate, self.review_rate, extrapolate=not self.certified)

    @classmethod
    def default(cls, scores: Sequence[float]) -> Recipe:
        """Return the default recipe of a product.

        It rejects at most 1 % of good parts and sends at most 5 % to review. Where the card has too few images to
        certify these rates, the smallest rates that it can certify are used.

        Args:
            scores: The scores of the calibration card, ascending.
        """
        fail = certify_nearest(scores, DEFAULT_FAIL_ALPHA)
        review = certify_nearest(scores, _review_rate(fail.alpha))
        return cls(
            fail_threshold=fail.value,
            review_threshold=review.value,
            target_false_reject_rate=fail.alpha,
            review_rate=review.alpha,
            certified=True,
            calibration_images=fail.n,
            derivation="default",
        )

    @classmethod
    def for_rates(
        cls,
        scores: Sequence[float],
        fail_alpha: float,
        review_alpha: float | None = None,
        *,
        extrapolate: bool = False,
    ) -> Recipe:
        """Return the recipe for the requested false-reject rates.

        Args:
            scores: The scores of the calibration card, ascending.
            fail_alpha: Largest share of good parts that may fail.
            review_alpha: Largest share of good parts above the review threshold. None uses twice `fail_alpha`, at least
                5 %, or the smallest rate that the card can certify.
            extrapolate: Extrapolate the tail of the scores where the card cannot certify `fail_alpha`. Such a recipe is
                not certified.

        Raises:
            InvalidRecipe: A rate is outside (0, 1) or smaller than the card can certify, or the rates are in the wrong
                order.
        """
        certified = not extrapolate or fail_alpha >= smallest_alpha(len(scores))
        for name, rate in (
            ("target_false_reject_rate", fail_alpha if certified else None),
            ("review_rate", review_alpha),
        ):
            if rate is not None and 0 < rate < smallest_alpha(len(scores)):
                raise _not_certifiable(name, rate, len(scores))
        try:
            fail = certify(scores, fail_alpha).value if certified else tail_threshold(scores, fail_alpha)
            if review_alpha is None:
                review = certify_nearest(scores, _review_rate(fail_alpha))
            else:
                review = certify(scores, review_alpha)
        except ValueError as error:
            raise InvalidRecipe(f"{str(error)[0].upper()}{str(error)[1:]}.") from error
        if review.alpha < fail_alpha:
            raise _invalid(violation(("review_rate",), "rate_order", review_rate=review.alpha, rate=fail_alpha))
        return cls(
            fail_threshold=fail,
            review_threshold=review.value,
            target_false_reject_rate=fail_alpha,
            review_rate=review.alpha,
            certified=certified,
            calibration_images=len(scores),
            derivation="card" if certified else "tail",
        )


THRESHOLD_FIELDS = frozenset(Recipe.model_fields) - frozenset(RecipeParts.model_fields)


def parse_recipe(values: Mapping[str, Any]) -> Recipe:
    """Return the recipe with the given values.

    Raises:
        InvalidRecipe: A value is out of range, or values contradict each other.
    """
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        raise invalid_recipe(error, Recipe) from error


def invalid_recipe(error: ValidationError, expected: type[BaseModel]) -> InvalidRecipe:
    """Convert a pydantic validation error, with the location of every violation.

    Args:
        error: The error.
        expected: The model that the values do not fit.
    """
    violations = list_violations(error, expected)
    return InvalidRecipe(f"{describe_violations(violations)}.", violations)


def _not_certifiable(name: str, rate: float, images: int) -> InvalidRecipe:
    smallest = float(f"{smallest_alpha(images):.4g}")
    values = {"images": images, "rate": rate, "smallest": smallest, "needed": images_needed(rate)}
    return _invalid(violation((name,), "rate_not_certifiable", **values))


def _invalid(found: dict[str, Any]) -> InvalidRecipe:
    """Return the error for a violation whose text is a sentence of its own."""
    return InvalidRecipe(f"{found['msg']}.", [found])


def _review_rate(fail_alpha: float) -> float:
    """Return twice the false-reject rate, at least 5 % and always less than 1."""
    return max(DEFAULT_REVIEW_ALPHA, min(2 * fail_alpha, (1 + fail_alpha) / 2))
