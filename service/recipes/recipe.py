"""What an engineer may change about a product without retraining.

A recipe is immutable; a change is a new revision in the store. It is validated as a whole, so there is no moment at
which half of it applies.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from service.inspection.area import Area
from service.inspection.calibration import (
    DEFAULT_FAIL_ALPHA,
    DEFAULT_REVIEW_ALPHA,
    certify,
    certify_nearest,
    smallest_alpha,
)
from service.inspection.calibration import extrapolate as tail_threshold
from service.inspection.decision import Criteria, Thresholds
from service.inspection.regions import RegionFilter
from service.recipes.errors import InvalidRecipe
from service.recipes.sections import RecipeParts, levels, merge

Derivation = Literal["default", "card", "proposal", "tail", "hand"]


class Recipe(RecipeParts):
    """The thresholds of a product, where they come from, and the other parts of its recipe.

    Attributes:
        fail_threshold: A part fails when its raw score is strictly greater.
        review_threshold: A part needs review when its raw score is strictly greater, and it does not fail.
        target_false_reject_rate: The bound on rejected good parts that `fail_threshold` was derived from; None
            where the threshold was set by hand, and then nothing is guaranteed.
        review_rate: The bound on good parts above `review_threshold`; None as above.
        certified: True when the calibration card vouches for `target_false_reject_rate`.
        calibration_images: Number of good images behind that guarantee.
        derivation: How the thresholds were found: "card" from the scores of the calibration card for rates that a
            person chose, certified; "default" likewise for rates that nobody chose; "proposal" from the good images of
            a stored proposal, certified; "tail" by extending the tail of the card's scores; "hand" by a person.
        proposal_id: That proposal. P-values are taken against the same images: the card's where this is None.
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
    def _know_derivation(cls, values: Any) -> Any:
        """Revisions that were stored before recipes said how their thresholds were found still tell it."""
        if isinstance(values, Mapping) and "derivation" not in values and values.get("target_false_reject_rate"):
            return {**values, "derivation": "card" if values.get("certified") else "tail"}
        return values

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.review_threshold > self.fail_threshold:
            raise ValueError(
                f"review_threshold {self.review_threshold:g} is above fail_threshold {self.fail_threshold:g}; "
                "a part would fail before it needs review"
            )
        return self

    @model_validator(mode="after")
    def _leave_something(self) -> Self:
        size = (self.pixels.width or math.inf, self.pixels.height or math.inf)
        if (where := self.area.corner_outside(*size)) is not None:
            raise ValueError(f"{where} that pixels.width and pixels.height declare")
        if not self.area.has_judged_part(*size):
            raise ValueError("the ignore polygons cover the whole ROI or image, so nothing would be judged")
        return self

    @property
    def thresholds(self) -> Thresholds:
        return Thresholds(fail=self.fail_threshold, review=self.review_threshold)

    @property
    def area(self) -> Area:
        """What of an image is judged."""
        return Area(self.roi, self.ignore)

    @property
    def criteria(self) -> Criteria:
        """What a part is judged by."""
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
        """This recipe with some of its values changed.

        Args:
            parts: Parts by name, as `merge` takes them.
            thresholds: The recipe whose thresholds (and how they were found) to take over; None keeps them.

        Raises:
            InvalidRecipe: What would come out contradicts itself.
        """
        values = merge(self.model_dump(), parts)
        if thresholds is not None:
            values |= thresholds.model_dump(include=set(THRESHOLD_FIELDS))
        return parse_recipe(values)

    def adapted_to(self, own: Recipe) -> Recipe:
        """This recipe for another bundle: what lies on a bundle's scale is taken from `own`, a recipe of that bundle;
        what is about camera and part stays.
        """
        return self.changed(levels(own), own)

    def rederived(self, scores: Sequence[float]) -> Recipe:
        """A recipe with the thresholds that this one's rates give on another bundle's calibration card.

        Args:
            scores: That card's scores, ascending.

        Raises:
            InvalidRecipe: The thresholds were set by hand, or the card cannot certify the rate.
        """
        if self.target_false_reject_rate is None:
            raise InvalidRecipe(
                f"The thresholds {self.fail_threshold:g} and {self.review_threshold:g} were set by hand on another "
                "bundle's scale and mean nothing on that of the bundle that serves now. State a false-reject rate, or "
                "thresholds for this bundle."
            )
        if self.derivation == "default":
            return Recipe.default(scores)
        return Recipe.for_rates(scores, self.target_false_reject_rate, self.review_rate, extrapolate=not self.certified)

    @classmethod
    def default(cls, scores: Sequence[float]) -> Recipe:
        """The recipe of a product that nobody configured yet.

        It rejects at most 1 % of good parts and sends at most 5 % to review, or, where the card has too few images
        to certify that, the smallest shares that it can certify.

        Args:
            scores: The calibration card's scores, ascending.
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
        """The recipe for stated false-reject rates.

        Args:
            scores: The calibration card's scores, ascending.
            fail_alpha: At most this share of good parts may fail.
            review_alpha: At most this share may lie above the review threshold; None takes twice `fail_alpha`, at
                least 5 %, or what the card can certify.
            extrapolate: Where the card cannot certify `fail_alpha`, extend the tail of its scores; the recipe is then
                not certified.

        Raises:
            InvalidRecipe: A rate is outside (0, 1), smaller than the card can certify, or they are in the wrong order.
        """
        certified = not extrapolate or fail_alpha >= smallest_alpha(len(scores))
        try:
            fail = certify(scores, fail_alpha).value if certified else tail_threshold(scores, fail_alpha)
            if review_alpha is None:
                review = certify_nearest(scores, _review_rate(fail_alpha))
            else:
                review = certify(scores, review_alpha)
        except ValueError as error:
            raise InvalidRecipe(f"{str(error)[0].upper()}{str(error)[1:]}.") from error
        if review.alpha < fail_alpha:
            raise InvalidRecipe(
                f"The review rate {review.alpha:g} is smaller than the false-reject rate {fail_alpha:g}; "
                "parts that fail are a subset of those above the review threshold."
            )
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
    """A recipe from its values.

    Raises:
        InvalidRecipe: They contradict each other, or one of them is not possible.
    """
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        raise invalid_recipe(error) from error


def invalid_recipe(error: ValidationError) -> InvalidRecipe:
    """What is wrong with the values of a recipe, place by place."""
    errors = error.errors(include_url=False, include_input=False, include_context=False)
    places = [".".join(str(part) for part in item["loc"]) for item in errors]
    texts = [item["msg"].removeprefix("Value error, ") for item in errors]
    detail = "; ".join(f"{place}: {text}" if place else text for place, text in zip(places, texts, strict=True))
    return InvalidRecipe(f"{detail}.", [dict(item) for item in errors])


def _review_rate(fail_alpha: float) -> float:
    """Twice the false-reject rate, at least 5 %, and never as much as everything."""
    return max(DEFAULT_REVIEW_ALPHA, min(2 * fail_alpha, (1 + fail_alpha) / 2))
