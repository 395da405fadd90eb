"""A proposed threshold: what it is derived from, what it promises, and what it would have changed.

Nothing here is in force. A proposal is computed once from the scores of good images, stored with them, and applied by a
recipe that names its id; what the recipe then claims is derived again from the stored scores.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from service.proposals.derive import MAX_CHANGED_LISTED

DEFAULT_CONFIDENCE = 0.95
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
        description="Pictures left out because they are not worth a verdict (exposure, blur, size), as on the line."
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
