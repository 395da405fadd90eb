"""Requests and responses about recipes."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from service.schemas.common import AUTHOR, Author, ConfirmRemoval, Guarantee, Label, RateBound, ResponseModel, Sentence
from service.schemas.drift import Suspension
from service.schemas.sections import (
    DecisionName,
    HeatmapSetting,
    Keep,
    PixelSetting,
    Polygons,
    QualityLimits,
    RecipeParts,
    RegionSetting,
    StorageLimit,
)
from service.schemas.violations import violated


class RecipeValues(RecipeParts):
    """The values of a recipe: thresholds, their origin, and the other sections."""

    # A client ignores sections that a newer service added.
    model_config = ConfigDict(extra="ignore")

    fail_threshold: float
    review_threshold: float
    target_false_reject_rate: float | None
    review_rate: float | None
    certified: bool = Field(
        description="Whether the calibration images certify `target_false_reject_rate`. False while the guarantee is "
        "suspended."
    )
    guarantee: Guarantee | None = Field(
        default=None,
        description="`certified`, `suspended` because of drift (see `/v1/products/{product}/drift`), or `none`. A "
        "revision that is not in force is never suspended. Null: a service of an older version.",
    )
    calibration_images: int
    derivation: Literal["default", "card", "proposal", "tail", "hand"] = Field(
        description="Origin of the thresholds. `card`: derived from the calibration card, certified. `default`: the "
        "same, for the default rates. `proposal`: derived from the good images of a proposal, certified. `tail`: "
        "extrapolated from the tail of the card's scores, not certified. `hand`: set by a person, not certified."
    )
    proposal_id: str | None = None


class RevisionFacts(ResponseModel):
    """Time, author and reason of a recipe revision."""

    product: str
    revision: int
    created_at: datetime
    author: str
    reason: str
    bundle_digest: str = Field(description="Digest of the bundle that defines the score scale of the thresholds.")


class RecipeRecord(RevisionFacts):
    """One revision of a product's recipe."""

    recipe: RecipeValues
    false_reject_bound: RateBound | None = Field(
        default=None,
        description="What `target_false_reject_rate` means on average and for this calibration; null if the thresholds "
        "were set by hand.",
    )
    suspension: Suspension | None = Field(
        default=None, description="Why the guarantee is suspended; null if it is not."
    )


class RecipeDifference(ResponseModel):
    """One value that differs between two recipes."""

    path: str = Field(examples=["regions.min_area_px"], description="Dotted path of the value in `recipe`.")
    before: Any
    after: Any


class RecipeDiff(ResponseModel):
    """All differences between two revisions."""

    before: RevisionFacts
    after: RevisionFacts
    differences: list[RecipeDifference]


class RecipeHistory(ResponseModel):
    """Revisions of a recipe, newest first."""

    items: list[RecipeRecord]


class RecipeEdit(BaseModel):
    """Values of a recipe to change.

    Values that are not listed stay the same, at every depth; null resets a value to its default; a list replaces the
    previous list.

    Thresholds are changed together, in one of three ways: both by hand, by rates from which the service derives
    thresholds with the calibration card, or by a proposal.
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    fail_threshold: float | None = None
    review_threshold: float | None = None
    target_false_reject_rate: float | None = Field(
        default=None, gt=0, lt=1, description="Largest share of good parts that may fail."
    )
    review_rate: float | None = Field(
        default=None, gt=0, lt=1, description="Largest share of good parts that may be above the review threshold."
    )
    extrapolate: bool = Field(
        default=False,
        description="If the card has too few images to certify the rate, extrapolate the tail of their scores. The "
        "threshold is then marked `certified: false`.",
    )
    proposal_id: Label | None = Field(
        default=None, description="Id of a stored proposal. Its thresholds are derived again from its good images."
    )
    roi: Polygons | None = Field(default=None, description="Only the area inside these polygons is judged.")
    ignore: Polygons | None = Field(default=None, description="The area inside these polygons is not judged.")
    regions: RegionSetting | None = Field(default=None, description="Filters that decide which regions count.")
    heatmap: HeatmapSetting | None = Field(default=None, description="Colour scale of the heatmap.")
    pixels: PixelSetting | None = Field(default=None, description="Format of the camera's images.")
    quality: QualityLimits | None = Field(default=None, description="Limits of the quality check.")
    retention: dict[DecisionName, Keep | None] | None = Field(
        default=None, description="How long images and anomaly maps are kept, per decision."
    )
    storage: StorageLimit | None = Field(
        default=None, description="Largest size of the images and anomaly maps of the product."
    )

    @model_validator(mode="after")
    def _require_one_way_to_set_thresholds(self) -> Self:
        by_hand = (self.fail_threshold, self.review_threshold)
        by_rate = (self.target_false_reject_rate, self.review_rate)
        ways = (by_hand, by_rate, (self.proposal_id,))
        if sum(any(value is not None for value in way) for way in ways) > 1:
            raise violated("two_ways")
        if any(value is not None for value in by_hand) and None in by_hand:
            raise violated("thresholds_incomplete")
        if (self.review_rate is not None or self.extrapolate) and self.target_false_reject_rate is None:
            raise violated("rate_missing")
        if not any(value is not None for way in ways for value in way) and not self.parts():
            raise violated("no_change")
        return self

    def parts(self) -> dict[str, Any]:
        """Return the sections in this change, each with only the values that it sets explicitly."""
        return self.model_dump(exclude_unset=True, include=set(RecipeParts.model_fields))


class RecipeChange(RecipeEdit):
    """A change of a recipe.

    Values that are not listed stay the same, at every depth; null resets a value to its default; a list replaces the
    previous list.

    Thresholds are changed together, in one of three ways: both by hand, by rates from which the service derives
    thresholds with the calibration card, or by a proposal.
    """

    author: Author | None = Field(default=None, description=AUTHOR)
    reason: Sentence = Field(description="Reason for the change.")
    expected_revision: int | None = Field(
        default=None,
        ge=0,
        description="Reject the change unless the recipe is at this revision. The header If-Match does the same.",
    )
    confirm_removal: ConfirmRemoval = None


class Signature(BaseModel):
    """Author and reason of a recipe change."""

    model_config = ConfigDict(extra="forbid")

    author: Author | None = Field(default=None, description=AUTHOR)
    reason: Sentence = Field(description="Reason for the change.")


class RecipeRevert(BaseModel):
    """Author and reason of a return to an earlier revision."""

    model_config = ConfigDict(extra="forbid")

    author: Author | None = Field(default=None, description=AUTHOR)
    reason: Annotated[Sentence, StringConstraints(max_length=800)] | None = Field(
        default=None, description="Reason for the change."
    )
    expected_revision: int | None = Field(
        default=None,
        ge=0,
        description="Reject the change unless the recipe is at this revision. The header If-Match does the same.",
    )
    confirm_removal: ConfirmRemoval = None
