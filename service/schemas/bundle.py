"""Requests and responses about bundles in operation."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from service.schemas.common import AUTHOR, Author, ConfirmRemoval, ResponseModel, Sentence
from service.schemas.inspection import BundleReference, Links
from service.schemas.product import BundleFacts, BundleProblem


class BundleDecision(BaseModel):
    """Author and reason of a change of the product's bundles."""

    model_config = ConfigDict(extra="forbid")

    author: Author | None = Field(default=None, description=AUTHOR)
    reason: Sentence = Field(description="Reason for the change.")


class BundleActivation(BundleDecision):
    """Author and reason of a change of the active bundle."""

    confirm_removal: ConfirmRemoval = None


class BundleRecord(ResponseModel):
    """A bundle of the model repository."""

    product: str
    version: str
    state: Literal["active", "shadow", "available", "broken"] = Field(
        description="`active`: decides about every image. `shadow`: inspects the same images, but does not decide. "
        "`available`: can be activated; it is verified and tested when it is loaded. `broken`: cannot "
        "be served."
    )
    loaded: bool = Field(description="Whether it is in memory now.")
    bundle: BundleFacts | None = Field(description="Null if the manifest cannot be read.")
    bytes: int | None = Field(description="Total size of all files.")
    problem: BundleProblem | None = Field(description="Why the bundle cannot be served.")


class BundleList(ResponseModel):
    """The bundles of a product, newest first."""

    items: list[BundleRecord]
    active: str | None = Field(description="Version of the active bundle.")
    shadow: str | None = Field(description="Version of the shadow bundle.")


class ChoiceRecord(ResponseModel):
    """Assignment of a role to a bundle, with author, time and reason."""

    product: str
    role: Literal["active", "shadow"]
    version: str | None = Field(description="Null: from this time on, no bundle has the role.")
    bundle_digest: str | None
    created_at: datetime
    author: str = Field(description="`plumbline`: the service itself assigned the role, because no person had done so.")
    reason: str


class ChoiceHistory(ResponseModel):
    """Assignments of one role, newest first. The first one is in force."""

    items: list[ChoiceRecord]


class Activation(ChoiceRecord):
    """A bundle that became active, and the recipe that came into force with it."""

    provider: str | None = Field(description="Null: the bundle was active before, and was not loaded yet.")
    recipe_revision: int


class PairedTestRecord(ResponseModel):
    """An exact two-sided test of paired differences."""

    active_only: int
    shadow_only: int
    p_value: float = Field(
        description="Probability of a difference at least as uneven if both directions were equally likely."
    )


class Disagreement(ResponseModel):
    """An image for which the two bundles decided differently."""

    inspection_id: str
    active_decision: str
    shadow_decision: str
    active_score: float
    shadow_score: float
    active_p_value: float
    shadow_p_value: float
    links: Links


class ComparisonRecord(ResponseModel):
    """Comparison of the decisions of two bundles on the same images."""

    product: str
    active: str = Field(description="Version of the active bundle.")
    shadow: str = Field(description="Version of the shadow bundle.")
    pairs: int = Field(description="Number of images that both bundles inspected.")
    agreement: dict[str, dict[str, int]] = Field(
        description="Number of images per pair of decisions: first the decision of the active bundle, then that of the "
        "shadow bundle."
    )
    rejects: PairedTestRecord = Field(
        description="McNemar's exact test of whether one bundle rejects more often than the other."
    )
    p_values: PairedTestRecord = Field(
        description="Sign test of whether the parts are more unusual for one bundle than for the other, each measured "
        "against its own calibration images."
    )
    examples: list[Disagreement] = Field(
        description="Images with different decisions, newest first, at most 20. Review them before a decision."
    )
    summary: str = Field(description="The result in plain language.")


class VerdictRecord(ResponseModel):
    """Decision, score and p-value of one inspection of an image."""

    decision: str
    score: float
    p_value: float
    provider: str


class ReplayRecord(ResponseModel):
    """A stored verdict and the verdict of a new inspection with the bundle and the recipe that it names."""

    inspection_id: str
    outcome: Literal["same", "different"]
    stored: VerdictRecord
    replayed: VerdictRecord
    score_difference: float = Field(description="Difference of the scores, relative to the stored score.")
    tolerance: float = Field(
        description="Largest `score_difference` that counts as the same: 0 if both verdicts were computed on the CPU "
        "without tiling, 1e-5 for tiled images and on CUDA, the tolerance of the bundle's parity certificate between "
        "different providers. The decision must always be the same."
    )
    bundle: BundleReference
    recipe_revision: int
    summary: str
    links: Links
