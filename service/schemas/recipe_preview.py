"""Requests and responses about the effect of a recipe change, and about distributions of stored values."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field

from service.schemas.common import RateBound, ResponseModel
from service.schemas.inspection import InspectionLabel, Links
from service.schemas.recipe import RecipeEdit
from service.schemas.sections import DecisionName

MAX_PREVIEWED = 5000
MAX_LISTED = 100


class RecipePreviewRequest(RecipeEdit):
    """A change of a recipe whose effect is requested. It has no author and no reason, because nothing changes."""

    inspections: int = Field(
        default=1000, ge=0, le=MAX_PREVIEWED, description="Number of the newest inspections to decide again."
    )


class ThresholdPreview(ResponseModel):
    """A threshold, and the share of good parts that is above it."""

    value: float
    above: int = Field(description="Number of reference scores above it.")
    bound: RateBound | None = Field(
        description="Bounds of the share of good parts above the threshold, from the reference scores. They hold for a "
        "threshold that was chosen without regard to these scores. Null: every reference score is above it."
    )


class ThresholdsPreview(ResponseModel):
    """The thresholds of a recipe."""

    fail: ThresholdPreview
    review: ThresholdPreview
    certified: bool = Field(description="Whether the recipe guarantees a false-reject rate.")
    target_false_reject_rate: float | None
    review_rate: float | None


class NearestRates(ResponseModel):
    """Certified rates whose thresholds are the nearest ones that are not above the proposed thresholds."""

    target_false_reject_rate: float
    review_rate: float
    fail_threshold: float
    review_threshold: float


class DecisionChange(ResponseModel):
    """Number of inspections with one decision before and another one after the change."""

    before: DecisionName
    after: DecisionName
    count: int


class PreviewedInspection(ResponseModel):
    """An inspection for which the decision would change."""

    id: str
    created_at: datetime
    part_id: str | None
    station: str | None
    score: float | None
    before: DecisionName
    after: DecisionName
    label: InspectionLabel | None
    kind: str | None = Field(description="Kind of defect, if the label has one.")
    has_image: bool = Field(description="Whether retention has not removed the image.")
    links: Links


class VerdictsPreview(ResponseModel):
    """Decisions of stored inspections of the active bundle, as they were made and with the changed recipe."""

    inspections: int = Field(description="Number of inspections that could be decided again.")
    unknown: int = Field(
        description="Number of inspections that could not be decided again: the anomaly map was removed, the polygons "
        "do not fit the image, or the quality check rejected an image that the changed recipe would judge."
    )
    before: dict[DecisionName, int]
    after: dict[DecisionName, int]
    changes: list[DecisionChange]
    changed: list[PreviewedInspection] = Field(description=f"Newest first, at most {MAX_LISTED}.")
    changed_total: int


class LabelledPreview(VerdictsPreview):
    """The same of the newest inspections that have a label by reviews, at most 2000."""

    by_label_before: dict[InspectionLabel, dict[DecisionName, int]]
    by_label_after: dict[InspectionLabel, dict[DecisionName, int]]


class RecipePreview(ResponseModel):
    """The effect of a changed recipe. Nothing was changed."""

    product: str
    revision: int = Field(description="The recipe in force, which the change was applied to.")
    bundle_digest: str
    before: ThresholdsPreview
    after: ThresholdsPreview
    nearest: NearestRates | None = Field(
        description="Null if the thresholds are below all scores of the calibration card, or are those of a proposal."
    )
    verdicts: VerdictsPreview
    labelled: LabelledPreview
    not_previewed: list[str] = Field(
        description="Changed values whose effect is not shown, because they change how images are read."
    )


class Histogram(ResponseModel):
    """Number of values per interval."""

    counts: list[int]
    below: int = Field(description="Number of values below the first interval.")
    above: int = Field(description="Number of values above the last interval.")
    total: int


class ScoreHistograms(ResponseModel):
    """Scores of good images and of stored inspections, in the same intervals."""

    edges: list[float] = Field(description="Borders of the intervals, one more than intervals.")
    reference: Histogram = Field(description="The scores that p-values are computed from.")
    reference_source: Literal["card", "proposal"]
    recent: Histogram = Field(description="Scores of inspections by the active bundle in the period.")
    fail_threshold: float
    review_threshold: float


class QualityDistribution(ResponseModel):
    """A measure of the quality check in stored inspections, and its limits."""

    measure: Literal["brightness", "dark_share", "bright_share", "sharpness", "contrast"]
    edges: list[float]
    recent: Histogram
    newest: float | None = Field(description="Value of the newest inspection; null without one.")
    median: float | None
    low: float | None = Field(description="Lower limit in force; null for none.")
    high: float | None = Field(description="Upper limit in force; null for none.")
    derived_low: float | None = Field(description="Lower limit that follows from the calibration images.")
    derived_high: float | None = Field(description="Upper limit that follows from the calibration images.")


class Distributions(ResponseModel):
    """Distributions of the scores and of the image quality of a product."""

    product: str
    since: datetime
    until: datetime
    inspections: int = Field(description="Number of inspections in the period that were considered.")
    is_cut: bool = Field(description="Whether the period has more inspections; the newest ones are considered.")
    scores: ScoreHistograms
    quality: list[QualityDistribution]
