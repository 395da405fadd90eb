"""Requests and responses about reviews: labels that people give to inspections."""

from __future__ import annotations

from datetime import datetime
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from service.schemas.common import Author, Label, RecordsRemovedUntil, ResponseModel, Sentence
from service.schemas.inspection import InspectionLabel, Links, VerdictName
from service.schemas.sections import DecisionName
from service.schemas.violations import violated

ReviewLabel = Literal["good", "defect", "unsure"]
"""What a reviewer states about a part."""
QueueReason = Literal["review", "sample", "shadow"]


class ReviewRequest(BaseModel):
    """The label that a reviewer gives to an inspection."""

    model_config = ConfigDict(extra="forbid")

    label: ReviewLabel = Field(description="`good`, `defect`, or `unsure` if the image does not show which.")
    kind: Label | None = Field(default=None, description="Kind of defect, such as `scratch`; for `defect` only.")
    note: Sentence | None = Field(default=None, description="A remark.")
    reviewer: Author | None = Field(
        default=None,
        description="Name of the reviewer, while the service has neither keys nor accounts. Otherwise the reviewer is "
        "the authenticated name, and a different one here is refused.",
    )

    @model_validator(mode="after")
    def _check_kind(self) -> Self:
        if self.kind is not None and self.label != "defect":
            raise violated("kind_without_defect")
        return self


class UndoRequest(BaseModel):
    """The withdrawal of a review."""

    model_config = ConfigDict(extra="forbid")

    review_id: int | None = Field(
        default=None,
        ge=1,
        le=2**31 - 1,
        description="The review to withdraw, which must be the reviewer's newest one; by default that one. Repeating a "
        "request with an id changes nothing.",
    )
    reviewer: Author | None = Field(default=None, description="As in a review.")


class Review(ResponseModel):
    """A stored review."""

    id: int
    inspection_id: str
    created_at: datetime
    reviewer: str
    label: ReviewLabel
    kind: str | None
    note: str | None
    state: Literal["current", "replaced", "withdrawn"] = Field(
        description="`current`: counts for the label. `replaced`: the reviewer gave a newer one. `withdrawn`: the "
        "reviewer withdrew it."
    )
    withdrawn_at: datetime | None = Field(description="When the reviewer withdrew it; null if it was not withdrawn.")


class ReviewHistory(ResponseModel):
    """The label of an inspection and all of its reviews."""

    inspection_id: str
    label: InspectionLabel | None = Field(
        description="`good` or `defect` if the current reviews agree, `disputed` if they do not, `unsure` if none of "
        "them decides. Null without a current review."
    )
    kind: str | None = Field(description="Kind of defect, if the reviewers who name one agree.")
    items: list[Review] = Field(description="All reviews, newest first.")


class QueueItem(ResponseModel):
    """An inspection to review."""

    inspection_id: str
    created_at: datetime
    decision: DecisionName
    score: float | None
    label: InspectionLabel | None = Field(description="The label by other reviewers so far.")
    reasons: list[QueueReason] = Field(
        description="`review`: the decision is review. `sample`: drawn from the passed or failed parts. `shadow`: the "
        "active and the shadow bundle disagree."
    )
    inclusion_probability: float | None = Field(
        description="Probability with which the sample contains this inspection: 1 for the decision review, sample "
        "size by stratum size for a sampled one. Null if the inspection is not part of the sample."
    )
    links: Links


class StratumFacts(ResponseModel):
    """One stratum of the inspections: those of one bundle with the same decision and a score within bounds."""

    bundle_version: str
    decision: VerdictName
    score_low: float = Field(description="Smallest score in the stratum.")
    score_high: float = Field(description="Largest score in the stratum.")
    inspections: int
    sampled: int
    reviewed: int = Field(description="Sampled inspections with the label good or defect.")
    inclusion_probability: float = Field(description="`sampled` / `inspections`.")


class ReviewPeriod(ResponseModel):
    """The inspections that a sample is drawn from."""

    product: str
    since: datetime
    until: datetime | None
    inspections: int = Field(description="Number of judged inspections in the period.")
    is_cut: bool = Field(
        description="Whether the period has more inspections than are considered; these are the newest ones."
    )
    strata: list[StratumFacts]
    records_removed_until: RecordsRemovedUntil = None


class ReviewQueue(ReviewPeriod):
    """Inspections to review, and the sample that they belong to."""

    reviewer: str
    total: int = Field(
        description="Number of inspections in the queue; `items` has the first ones, or those that follow `after`."
    )
    items: list[QueueItem]


class DefectKind(ResponseModel):
    """A kind of defect that reviewers named."""

    kind: str
    reviews: int = Field(description="Number of reviews that name it, withdrawn ones excluded.")


class DefectKinds(ResponseModel):
    """The kinds of defects that reviewers of a product named."""

    product: str
    items: list[DefectKind] = Field(description="Most frequent first.")


class PairAgreement(ResponseModel):
    """Agreement of two reviewers about the inspections that both reviewed."""

    first: str
    second: str
    inspections: int
    agreement: float = Field(description="Share of inspections with the same label.")
    kappa: float | None = Field(
        description="Cohen's kappa; null if it is undefined because both used one and the same label throughout."
    )
    kappa_low: float | None = Field(description="Lower limit of the 95 % confidence interval.")
    kappa_high: float | None
    counts: dict[ReviewLabel, dict[ReviewLabel, int]] = Field(
        description="Number of inspections by the label of the first and then of the second reviewer."
    )


class ReviewerFacts(ResponseModel):
    """What one reviewer has labelled."""

    reviewer: str
    reviews: int
    labels: dict[ReviewLabel, int]


class AgreementReport(ResponseModel):
    """Agreement of the reviewers of a product."""

    product: str
    reviewers: list[ReviewerFacts]
    pairs: list[PairAgreement] = Field(description="Pairs of reviewers with common inspections.")
    common: int = Field(description="Number of inspections with at least two reviewers.")
    alpha: float | None = Field(
        description="Krippendorff's alpha for nominal data, of all reviewers; null if it is undefined."
    )
    is_cut: bool = Field(description="Whether there are more reviews than are considered; these are the newest ones.")


class RateEstimate(ResponseModel):
    """An estimated rate with its 95 % confidence interval."""

    rate: float | None = Field(description="Null if no reviewed part is of this kind.")
    low: float
    high: float
    count: int = Field(description="Reviewed parts of the sample that are counted.")
    of: int = Field(description="Reviewed parts of the sample that they are a share of.")
    method: Literal["clopper-pearson", "melded"] = Field(
        description="`clopper-pearson` if every part has the same weight, otherwise `melded`."
    )


class AppliedThresholds(ResponseModel):
    """Thresholds of the raw score that were applied to the inspections of one bundle."""

    fail: float
    review: float
    bundle_version: str


class RatesAt(ResponseModel):
    """Rates of the decisions as they were made, or of the decisions that thresholds would make."""

    basis: Literal["decisions", "current", "proposed"] = Field(
        description="`decisions`: as they were made, of all bundles. `current`: by the thresholds in force. "
        "`proposed`: by the thresholds in the request."
    )
    thresholds: AppliedThresholds | None = Field(
        description="Null for `decisions`. Thresholds are applied to the score alone, without region filters, which "
        "can make a decision milder."
    )
    confusion: dict[InspectionLabel, dict[DecisionName, int]] = Field(
        description="Number of labelled inspections of the period by label and decision, sampled or not."
    )
    false_reject: RateEstimate = Field(description="Share of good parts that fail.")
    false_alarm: RateEstimate = Field(description="Share of good parts that fail or need review.")
    miss: RateEstimate = Field(description="Share of defective parts that pass.")
    unreviewed: int = Field(
        description="Inspections in cells of the estimate without any reviewed part. Nothing is assumed about them: "
        "the intervals contain every share of defects among them, the rates leave them out."
    )


class RatesReport(ReviewPeriod):
    """Rates of wrong decisions, estimated from the reviewed part of the sample."""

    results: list[RatesAt]
