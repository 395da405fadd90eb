"""Recipes in requests and responses."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from service.schemas.common import Answer, Author, Label, Sentence
from service.schemas.sections import (
    DecisionName,
    HeatmapSetting,
    Keep,
    PixelSetting,
    Polygons,
    QualityLimits,
    RecipeParts,
    RegionSetting,
)


class RecipeValues(RecipeParts):
    """Thresholds, where they come from, and the other parts of the recipe."""

    # A client takes the parts that it knows from a service that knows more.
    model_config = ConfigDict(extra="ignore")

    fail_threshold: float
    review_threshold: float
    target_false_reject_rate: float | None
    review_rate: float | None
    certified: bool
    calibration_images: int
    derivation: Literal["default", "card", "proposal", "tail", "hand"] = Field(
        description="How the thresholds were found: `card` from the calibration card, certified; `default` likewise, "
        "for rates that nobody chose; `proposal` from that proposal's good images, certified; `tail` by extending the "
        "tail of the card's scores, `hand` by a person: not certified."
    )
    proposal_id: str | None = None


class RevisionFacts(Answer):
    """When a recipe was put in force, by whom and why."""

    product: str
    revision: int
    created_at: datetime
    author: str
    reason: str
    bundle_digest: str = Field(description="The bundle whose score scale the thresholds are on.")


class RecipeRecord(RevisionFacts):
    """One revision of a product's recipe."""

    recipe: RecipeValues


class RecipeDifference(Answer):
    """One value that differs between two recipes."""

    path: str = Field(examples=["regions.min_area_px"], description="Where, by dotted path in `recipe`.")
    before: Any
    after: Any


class RecipeDiff(Answer):
    """What changed from one revision to another."""

    before: RevisionFacts
    after: RevisionFacts
    differences: list[RecipeDifference]


class RecipeHistory(Answer):
    """Revisions of a recipe, newest first."""

    items: list[RecipeRecord]


class RecipeChange(BaseModel):
    """What is to change in a recipe. What is not named keeps its value, at every depth; null takes a value back to its
    default; a list replaces the list.

    Thresholds are changed together: both set by hand, by rates that the calibration card turns into thresholds, or by
    a proposal.
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    author: Author = Field(description="Who changes it.")
    reason: Sentence = Field(description="Why.")
    fail_threshold: float | None = None
    review_threshold: float | None = None
    target_false_reject_rate: float | None = Field(
        default=None, gt=0, lt=1, description="At most this share of good parts may fail."
    )
    review_rate: float | None = Field(
        default=None, gt=0, lt=1, description="At most this share may lie above the review threshold."
    )
    extrapolate: bool = Field(
        default=False,
        description="Where the card has too few images to certify the rate, extend the tail of their scores instead. "
        "The threshold is then marked `certified: false`.",
    )
    proposal_id: Label | None = Field(
        default=None, description="A stored proposal, whose thresholds are derived again from its good images."
    )
    roi: Polygons | None = Field(default=None, description="Only what lies in one of these polygons is judged.")
    ignore: Polygons | None = Field(default=None, description="Nothing in one of these polygons is judged.")
    regions: RegionSetting | None = Field(default=None, description="Which regions count.")
    heatmap: HeatmapSetting | None = Field(default=None, description="The heatmap's scale.")
    pixels: PixelSetting | None = Field(default=None, description="What the camera sends.")
    quality: QualityLimits | None = Field(default=None, description="When an image is not worth a verdict.")
    retention: dict[DecisionName, Keep | None] | None = Field(
        default=None, description="How long images and maps are kept, by decision."
    )
    expected_revision: int | None = Field(
        default=None, ge=0, description="Refuse the change if the recipe is at another revision. As If-Match."
    )

    @model_validator(mode="after")
    def _state_one_way(self) -> Self:
        by_hand = (self.fail_threshold, self.review_threshold)
        by_rate = (self.target_false_reject_rate, self.review_rate)
        ways = (by_hand, by_rate, (self.proposal_id,))
        if sum(any(value is not None for value in way) for way in ways) > 1:
            raise ValueError("give one of: fail_threshold and review_threshold; target_false_reject_rate; proposal_id")
        if any(value is not None for value in by_hand) and None in by_hand:
            raise ValueError("thresholds set by hand need both fail_threshold and review_threshold")
        if (self.review_rate is not None or self.extrapolate) and self.target_false_reject_rate is None:
            raise ValueError("review_rate and extrapolate need target_false_reject_rate")
        if not any(value is not None for way in ways for value in way) and not self.parts():
            raise ValueError("name at least one value to change")
        return self

    def parts(self) -> dict[str, Any]:
        """The parts that are named, and of each only what is named."""
        return self.model_dump(exclude_unset=True, include=set(RecipeParts.model_fields))


class Signature(BaseModel):
    """Who changes a recipe, and why."""

    model_config = ConfigDict(extra="forbid")

    author: Author = Field(description="Who changes it.")
    reason: Sentence = Field(description="Why.")


class RecipeRevert(BaseModel):
    """Who returns to an old revision, and why."""

    model_config = ConfigDict(extra="forbid")

    author: Author = Field(description="Who changes it.")
    reason: Annotated[Sentence, StringConstraints(max_length=800)] | None = Field(default=None, description="Why.")
    expected_revision: int | None = Field(
        default=None, ge=0, description="Refuse the change if the recipe is at another revision. As If-Match."
    )
