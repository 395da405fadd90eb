"""What an engineer may change about a product without retraining: for now, its thresholds.

A recipe is immutable; a change is a new revision in the store. It is validated as a whole, so there is no moment at
which half of it applies.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from service.errors import InvalidRecipe
from service.inspection.calibration import (
    DEFAULT_FAIL_ALPHA,
    DEFAULT_REVIEW_ALPHA,
    certify,
    certify_nearest,
    smallest_alpha,
)
from service.inspection.calibration import extrapolate as tail_threshold
from service.inspection.decision import Thresholds


class Recipe(BaseModel):
    """The thresholds of a product and where they come from.

    Attributes:
        fail_threshold: A part fails when its raw score is strictly greater.
        review_threshold: A part needs review when its raw score is strictly greater, and it does not fail.
        target_false_reject_rate: The bound on rejected good parts that `fail_threshold` was derived from; None
            where the threshold was set by hand, and then nothing is guaranteed.
        review_rate: The bound on good parts above `review_threshold`; None as above.
        certified: True when the calibration card vouches for `target_false_reject_rate`.
        calibration_images: Number of good images behind that guarantee.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    fail_threshold: float
    review_threshold: float
    target_false_reject_rate: float | None = Field(default=None, gt=0, lt=1)
    review_rate: float | None = Field(default=None, gt=0, lt=1)
    certified: bool = False
    calibration_images: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.review_threshold > self.fail_threshold:
            raise ValueError(
                f"review_threshold {self.review_threshold:g} is above fail_threshold {self.fail_threshold:g}; "
                "a part would fail before it needs review"
            )
        return self

    @property
    def thresholds(self) -> Thresholds:
        return Thresholds(fail=self.fail_threshold, review=self.review_threshold)

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
        )


def _review_rate(fail_alpha: float) -> float:
    """Twice the false-reject rate, at least 5 %, and never as much as everything."""
    return max(DEFAULT_REVIEW_ALPHA, min(2 * fail_alpha, (1 + fail_alpha) / 2))
