"""Immutable records that the store returns and accepts. ORM rows never leave the store."""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from service.recipes.recipe import Recipe
from service.schemas.common import SYSTEM_AUTHOR, Guarantee
from service.schemas.inspection import InspectionLabel, VerdictName
from service.schemas.proposal import Proposal
from service.schemas.review import ReviewLabel
from service.store.audit import Actor, AuditAction

Role = Literal["active", "shadow"]


@dataclass(frozen=True, kw_only=True)
class InspectionRecord:
    """One inspection, with everything that is needed to display and to replay it. One field per column."""

    id: str
    created_at: datetime
    product: str
    decision: str
    score: float | None
    """None for an image that the quality check rejected before inference; the p-value is None, too."""
    p_value: float | None
    fail_threshold: float
    review_threshold: float
    target_false_reject_rate: float | None
    certified: bool
    calibration_count: int
    heatmap_low: float
    heatmap_high: float
    regions: list[dict[str, Any]]
    bundle_digest: str
    bundle_version: str
    method: str
    provider: str
    recipe_revision: int
    image_media_type: str
    image_width: int
    image_height: int
    image_bytes: int
    image_sha256: str
    timings_ms: dict[str, Any]
    batch_size: int
    image_pixels: dict[str, Any] | None = None
    """How the image's bytes were interpreted (`PixelRules`), where the bytes alone do not define it."""
    by_score: str | None = None
    """The decision before region filters; None if no region was dropped."""
    dropped_regions: dict[str, Any] | None = None
    """Number of regions that each filter dropped."""
    judged_share: float | None = None
    """Share of the anomaly map inside the inspected area; None if all of it was inspected."""
    quality: dict[str, Any] | None = None
    """Quality measures of the image (`Quality`)."""
    objections: list[dict[str, Any]] | None = None
    """Reasons for the decision `invalid` (`QualityViolation`)."""
    artefacts_removed_at: datetime | None = None
    """When retention removed image and map; None if it did not."""
    artefact_bytes: int | None = None
    """Size of image and map together, in bytes."""
    part_id: str | None = None
    station: str | None = None
    lot: str | None = None
    captured_at: datetime | None = None
    request_id: str | None = None
    traceparent: str | None = None
    proposal_id: str | None = None
    """The proposal whose reference scores were used; None for the bundle's calibration card."""
    suspended: bool | None = None
    """True if the guarantee was suspended because of drift; then `certified` is False."""

    @property
    def guarantee(self) -> Guarantee:
        """Whether a bound of the false-reject rate was guaranteed."""
        return "certified" if self.certified else "suspended" if self.suspended else "none"

    def columns(self) -> dict[str, Any]:
        """Return the value of every column by name. Unlike `dataclasses.asdict`, it copies nothing."""
        return {name: getattr(self, name) for name in _INSPECTION_COLUMNS}


_INSPECTION_COLUMNS = tuple(field.name for field in fields(InspectionRecord))


@dataclass(frozen=True, kw_only=True)
class ShadowRecord:
    """The verdict of a shadow bundle on an inspection's image. One field per column."""

    inspection_id: str
    bundle_digest: str
    bundle_version: str
    decision: str
    score: float
    p_value: float
    fail_threshold: float
    review_threshold: float
    provider: str
    infer_ms: float

    def columns(self) -> dict[str, Any]:
        """Return the value of every column by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


@dataclass(frozen=True)
class PairedVerdict:
    """The verdicts of an active bundle and of its shadow on the same image."""

    inspection_id: str
    active_decision: str
    shadow_decision: str
    active_score: float
    shadow_score: float
    active_p_value: float
    shadow_p_value: float


@dataclass(frozen=True)
class StoredReview:
    """A review of an inspection.

    Attributes:
        withdrawn_at: When the reviewer withdrew it; None if it was not withdrawn.
    """

    id: int
    inspection_id: str
    created_at: datetime
    reviewer: str
    label: ReviewLabel
    kind: str | None
    note: str | None
    withdrawn_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class LabelledImage:
    """What reviews and their statistics need of a judged inspection.

    Attributes:
        has_image: Whether retention has not removed the image.
        label: The label; None without a review.
    """

    id: str
    decision: VerdictName
    score: float
    bundle_version: str
    has_image: bool
    label: InspectionLabel | None


@dataclass(frozen=True)
class RecipeRevision:
    """A stored recipe with its author, time and reason, and the bundle that its thresholds belong to."""

    product: str
    revision: int
    created_at: datetime
    author: str
    reason: str
    bundle_digest: str
    recipe: Recipe

    @property
    def is_chosen(self) -> bool:
        """Whether a person set its thresholds or rates, now or in an earlier revision for the same bundle."""
        return self.author != SYSTEM_AUTHOR and self.recipe.derivation != "default"


@dataclass(frozen=True)
class RecipeDraft:
    """A recipe to append as a new revision.

    Attributes:
        product: The product.
        bundle_digest: The bundle on whose score scale the thresholds are.
        recipe: The recipe.
        actor: Who changes it.
        reason: Why.
        action: What kind of change it is, for the audit log.
        confirm_removal: Number of inspections whose images may be removed because of the change; see
            `service.store.removal`.
    """

    product: str
    bundle_digest: str
    recipe: Recipe
    actor: Actor
    reason: str
    action: AuditAction = "recipe:put"
    confirm_removal: int | None = None

    @property
    def author(self) -> str:
        """The author of the revision: the actor, or the service if it derived the recipe."""
        return SYSTEM_AUTHOR if self.action == "recipe:derive" else self.actor.name


@dataclass(frozen=True)
class BundleChoice:
    """A stored choice of the bundle that has a role, with its author, time and reason.

    Attributes:
        bundle_digest: The bundle; None if no bundle has the role from this choice on.
        returns_to: Id of the choice that a roll-back returns to; None if there is none.
    """

    id: int
    product: str
    role: Role
    created_at: datetime
    author: str
    reason: str
    bundle_digest: str | None
    returns_to: int | None

    @property
    def version(self) -> str | None:
        """The bundle's version: the first 12 digits of its digest."""
        return None if self.bundle_digest is None else self.bundle_digest[:12]


@dataclass(frozen=True)
class ChoiceDraft:
    """A choice of a bundle to append. The attributes are those of `BundleChoice` and `AuditEntry`."""

    product: str
    role: Role
    bundle_digest: str | None
    actor: Actor
    reason: str
    action: AuditAction
    returns_to: int | None = None


@dataclass(frozen=True)
class StoredProposal:
    """A threshold proposal and the scores that it was derived from.

    Attributes:
        proposal: The proposal as it was returned to the client.
        scores: Scores of its good images, ascending.
        review_rate: The requested review rate; None for the default.
    """

    proposal: Proposal
    scores: tuple[float, ...]
    review_rate: float | None


@dataclass(frozen=True)
class Artefacts:
    """The image and the anomaly map of one inspection."""

    inspection_id: UUID
    media_type: str
