"""Threshold proposals: what may be asked for, as JSON or as a query, and what is returned."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal, Self
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from service.schemas.common import Author, Moment

DEFAULT_CONFIDENCE = 0.95
MAX_GOOD_IMAGES = 5000
MAX_CHANGED_LISTED = 500

SourceKind = Literal["card", "images", "inspections"]
Grouping = Literal["folder", "date-in-name", "captured-at", "none"]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True)


class ProposalSource(_Record):
    """The good images behind a proposal."""

    kind: SourceKind = Field(description="`card`: the bundle's calibration card.")
    images: int = Field(description="Good images; n of every statement.")
    duplicates: int = Field(description="Images left out because another one holds the very same bytes.")
    grouped_by: Grouping = Field(description="What told the days apart; `none`: nothing did.")
    one_session: bool = Field(description="All images count as taken together, so no other day is covered.")
    measured: int = Field(description="Images that were measured for this proposal; the other scores were stored.")
    not_judged: list[str] = Field(
        description="Images left out because they are not worth a verdict (exposure, blur, size), as on the line."
    )


class ProposedThresholds(_Record):
    fail: float = Field(description="A part would fail strictly above.")
    review: float = Field(description="A part would need review strictly above.")


class ConfidentRate(_Record):
    """With this confidence over the draw of the good images, the share of good parts that fail is at most `rate`."""

    confidence: float
    rate: float


class FalseRejectRate(_Record):
    """What is promised about good parts that are taken like the images behind the proposal."""

    target: float = Field(description="What was asked for.")
    certified: float = Field(
        description="At most this share of good parts fails, on average over draws of the good images and of the part. "
        "The target, or the smallest rate that so many images can certify."
    )
    expected: float = Field(
        description="(n + 1 - rank) / (n + 1): the bound on that average itself. Not above `certified`."
    )
    confident: ConfidentRate
    smallest_certifiable: float = Field(description="1 / (n + 1).")
    images_for_target: int = Field(description="Good images that would certify the target.")


class ProposalDay(_Record):
    """One day or folder of the good images."""

    name: str
    images: int
    above: int | None = Field(description="Images above the proposed fail threshold; null where the card has no days.")
    share_above: float | None
    median_score: float | None
    p_value: float | None = Field(description="Rank-sum test against the other days; null for too few images.")
    differs: bool | None = Field(description="More unlike the other days than chance explains.")


class ChangedVerdict(_Record):
    """A stored inspection, as it was decided and as it would be."""

    id: str
    before: str
    after: str


class ReplayedVerdicts(_Record):
    """What the newest stored inspections of this bundle would have been decided with these thresholds, and the ROI and
    region filters that are in force now."""

    inspections: int
    unknown: int = Field(description="Inspections whose map would have been needed and is gone; not counted above.")
    before: dict[str, int] = Field(description="Decisions as they were stored.")
    after: dict[str, int]
    changed: list[ChangedVerdict] = Field(description=f"Newest first, at most {MAX_CHANGED_LISTED}.")
    changed_total: int


class Proposal(_Record):
    """Thresholds for a false-reject rate. Not in force until a recipe names its id."""

    id: str
    product: str
    created_at: datetime
    author: str
    bundle_digest: str = Field(description="The bundle whose score scale the thresholds are on.")
    source: ProposalSource
    thresholds: ProposedThresholds
    false_reject_rate: FalseRejectRate
    review_rate: float = Field(description="At most this share of good parts lies above the review threshold.")
    days: list[ProposalDay]
    replayed: ReplayedVerdicts
    notes: list[str] = Field(description="What to know before it is applied, in words.")


def _declared(is_good: bool) -> bool:
    if not is_good:
        raise ValueError("must be true: somebody has to vouch that every one of these parts is good")
    return is_good


DeclaredGood = Annotated[bool, AfterValidator(_declared)]


class InspectionSelection(BaseModel):
    """Stored inspections whose parts somebody declares good, whatever was decided about them."""

    model_config = ConfigDict(extra="forbid")

    declared_good: DeclaredGood = Field(description="The author vouches that every one of these parts is good.")
    ids: list[UUID] | None = Field(default=None, min_length=1, max_length=MAX_GOOD_IMAGES)
    since: Moment | None = Field(default=None, description="Judged then or later; with `until`, instead of `ids`.")
    until: Moment | None = Field(default=None, description="Judged before.")

    @model_validator(mode="after")
    def _select_one_way(self) -> Self:
        if (self.ids is None) == (self.since is None or self.until is None) or (
            self.ids is not None and (self.since or self.until)
        ):
            raise ValueError("give either ids, or since and until")
        if self.since is not None and self.until is not None and self.since >= self.until:
            raise ValueError("since must be before until")
        return self


class ProposalWish(BaseModel):
    """What to propose."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    author: Author = Field(description="Who asks, and vouches for the images.")
    target_false_reject_rate: float = Field(gt=0, lt=1, description="At most this share of good parts may fail.")
    review_rate: float | None = Field(
        default=None, gt=0, lt=1, description="At most this share may lie above the review threshold."
    )
    confidence: float = Field(
        default=DEFAULT_CONFIDENCE, ge=0.5, le=0.9999, description="Of the bound for the images at hand."
    )
    replay: int = Field(default=500, ge=0, le=10_000, description="How many of the newest inspections to decide again.")


class ProposalRequest(ProposalWish):
    """What to propose, from the bundle's calibration card or from stored inspections."""

    inspections: InspectionSelection | None = Field(
        default=None, description="Stored inspections to derive from; null: the bundle's calibration card."
    )


class UploadWish(ProposalWish):
    """What to propose from the images in the body."""

    declared_good: DeclaredGood = Field(description="The author vouches that every one of these parts is good.")


class ProposalPage(BaseModel):
    """Proposals, newest first."""

    items: list[Proposal]
    next_cursor: str | None = Field(description="Send as `cursor` for the next page; null on the last one.")
