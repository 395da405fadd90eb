"""What a proposal may be asked for, as JSON or as a query."""

from __future__ import annotations

from typing import Annotated, Self
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from service.proposals.derive import Wish
from service.proposals.records import DEFAULT_CONFIDENCE, Proposal
from service.schemas.common import Author, Moment
from service.serving.proposer import MAX_GOOD_IMAGES
from service.store.inspections import Selection


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

    def selection(self) -> Selection:
        return Selection(None if self.ids is None else tuple(self.ids), self.since, self.until)


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

    def wish(self) -> Wish:
        return Wish(self.target_false_reject_rate, self.review_rate, self.confidence, self.author)


class ProposalRequest(ProposalWish):
    """What to propose, from the bundle's calibration card or from stored inspections."""

    inspections: InspectionSelection | None = Field(
        default=None, description="Stored inspections to derive from; null: the bundle's calibration card."
    )


class UploadWish(ProposalWish):
    """What to propose from the pictures in the body."""

    declared_good: DeclaredGood = Field(description="The author vouches that every one of these parts is good.")


class ProposalPage(BaseModel):
    """Proposals, newest first."""

    items: list[Proposal]
    next_cursor: str | None = Field(description="Send as `cursor` for the next page; null on the last one.")
