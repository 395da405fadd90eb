"""Requests and responses about threshold proposals."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal, Self
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from service.schemas.common import AUTHOR, Author, ResponseModel, UtcDatetime
from service.schemas.violations import violated

DEFAULT_CONFIDENCE = 0.95
MAX_GOOD_IMAGES = 5000
MAX_CHANGED_LISTED = 500

SourceKind = Literal["card", "images", "inspections"]
Grouping = Literal["folder", "date-in-name", "prefix", "captured-at", "none"]


class ProposalSource(ResponseModel):
    """The good images behind a proposal."""

    kind: SourceKind = Field(description="`card`: the calibration card of the bundle.")
    images: int = Field(description="Number of good images; n in all statements.")
    duplicates: int = Field(description="Number of images left out because they are byte-identical to another image.")
    grouped_by: Grouping = Field(description="How images were assigned to days; `none`: not at all.")
    one_session: bool = Field(
        description="True if all images count as one session, so that the proposal does not cover other days."
    )
    measured: int = Field(
        description="Number of images that were scored for this proposal; the other scores were already stored."
    )
    reviewed_good: int = Field(
        default=0, description="Number of images that joined because they are labelled good by reviews."
    )
    labelled_defect: list[str] = Field(
        default=[], description="Inspections left out because they are labelled defect or disputed by reviews."
    )
    not_judged: list[str] = Field(
        description="Images left out because the quality check rejected them (exposure, blur, size), as in an "
        "inspection."
    )


class ProposedThresholds(ResponseModel):
    """The proposed thresholds of the raw score."""

    fail: float = Field(description="A part would fail if its score is greater.")
    review: float = Field(description="A part would need review if its score is greater.")


class ConfidentRate(ResponseModel):
    """With this confidence over the selection of good images, at most the share `rate` of good parts fails."""

    confidence: float
    rate: float


class FalseRejectRate(ResponseModel):
    """Guaranteed false-reject rates, for images that are taken under the same conditions as those of the proposal."""

    target: float = Field(description="The requested rate.")
    certified: float = Field(
        description="At most this share of good parts fails, on average over the selection of good images and of the "
        "part. It is the target, or the smallest rate that this number of images can certify if that is larger."
    )
    expected: float = Field(
        description="Upper bound of that average: (n + 1 - rank) / (n + 1). It is at most `certified`."
    )
    confident: ConfidentRate
    statement: str = Field(default="", description="The certified rate and its bounds in words.")
    smallest_certifiable: float = Field(description="1 / (n + 1).")
    images_for_target: int = Field(description="Number of good images that would certify the target.")


class ProposalDay(ResponseModel):
    """One day or folder of the good images."""

    name: str
    images: int
    above: int | None = Field(
        description="Number of images above the proposed fail threshold; null if the card has no days."
    )
    share_above: float | None
    median_score: float | None
    p_value: float | None = Field(
        description="P-value of a rank-sum test against the other days; null if there are too few images."
    )
    differs: bool | None = Field(description="Whether the day differs significantly from the others.")


class ChangedVerdict(ResponseModel):
    """A stored inspection for which the decision would change."""

    id: str
    before: str
    after: str


class ReplayedVerdicts(ResponseModel):
    """Decisions of the newest stored inspections if the proposed thresholds were in force.

    The inspections are those of this bundle; ROI and region filters are those in force now.
    """

    inspections: int
    unknown: int = Field(
        description="Number of inspections that could not be replayed because their anomaly map was removed; "
        "`inspections` does not include them."
    )
    before: dict[str, int] = Field(description="Number of inspections per stored decision.")
    after: dict[str, int] = Field(description="Number of inspections per decision with the proposed thresholds.")
    changed: list[ChangedVerdict] = Field(description=f"Newest first, at most {MAX_CHANGED_LISTED}.")
    changed_total: int


class Proposal(ResponseModel):
    """Thresholds for a false-reject rate. They come into force when a recipe refers to the proposal by its id."""

    id: str
    product: str
    created_at: datetime
    author: str
    bundle_digest: str = Field(description="Digest of the bundle that defines the score scale of the thresholds.")
    source: ProposalSource
    thresholds: ProposedThresholds
    false_reject_rate: FalseRejectRate
    review_rate: float = Field(description="Largest share of good parts above the review threshold.")
    days: list[ProposalDay]
    replayed: ReplayedVerdicts
    notes: list[str] = Field(description="Notes for the person who decides whether to apply the proposal.")


def _require_declaration(is_good: bool) -> bool:
    if not is_good:
        raise violated("not_confirmed")
    return is_good


DeclaredGood = Annotated[bool, AfterValidator(_require_declaration)]


class InspectionSelection(BaseModel):
    """Stored inspections of parts that the author declares good, independently of their decisions."""

    model_config = ConfigDict(extra="forbid")

    declared_good: DeclaredGood = Field(description="The author confirms that all of these parts are good.")
    ids: list[UUID] | None = Field(default=None, min_length=1, max_length=MAX_GOOD_IMAGES)
    since: UtcDatetime | None = Field(
        default=None, description="Start of the period, inclusive; together with `until`, instead of `ids`."
    )
    until: UtcDatetime | None = Field(default=None, description="End of the period, exclusive.")
    include_reviewed_good: bool = Field(
        default=False,
        description="Add the inspections of this product that are labelled good by reviews, such as false rejects; "
        "with `since` and `until`, those of the period. They may also be the only ones. Inspections that are labelled "
        "`defect` or `disputed` are left out and named in `source.labelled_defect`.",
    )

    @model_validator(mode="after")
    def _select_one_way(self) -> Self:
        has_period = self.since is not None and self.until is not None
        is_empty = self.ids is None and self.since is None and self.until is None
        if not (is_empty and self.include_reviewed_good) and (
            (self.ids is None) != has_period or (self.ids is not None and (self.since or self.until))
        ):
            raise violated("ids_or_period")
        if self.since is not None and self.until is not None and self.since >= self.until:
            raise violated("period_order")
        return self


class ProposalParameters(BaseModel):
    """Parameters of a threshold proposal."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    author: Author | None = Field(default=None, description=AUTHOR)
    target_false_reject_rate: float = Field(gt=0, lt=1, description="Largest share of good parts that may fail.")
    review_rate: float | None = Field(
        default=None, gt=0, lt=1, description="Largest share of good parts that may be above the review threshold."
    )
    confidence: float = Field(
        default=DEFAULT_CONFIDENCE,
        ge=0.5,
        le=0.9999,
        description="Confidence level of the bound for this selection of images.",
    )
    replay: int = Field(
        default=500,
        ge=0,
        le=10_000,
        description="Number of newest inspections for which to compute the decision again.",
    )


class ProposalRequest(ProposalParameters):
    """Request for thresholds from the bundle's calibration card or from stored inspections."""

    inspections: InspectionSelection | None = Field(
        default=None,
        description="Stored inspections to derive the thresholds from; null: the bundle's calibration card.",
    )


class UploadParameters(ProposalParameters):
    """Request for thresholds from the images in the body."""

    declared_good: DeclaredGood = Field(description="The author confirms that all of these parts are good.")


class ProposalPage(BaseModel):
    """Proposals, newest first."""

    items: list[Proposal]
    next_cursor: str | None = Field(description="Value of `cursor` for the next page; null on the last page.")
