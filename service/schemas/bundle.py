"""What the API says and takes about models in operation, as JSON."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from service.schemas.common import Answer, Author, Sentence
from service.schemas.inspection import BundleReference, Links
from service.schemas.product import BundleFacts, BundleProblem


class BundleDecision(BaseModel):
    """Who decides about a bundle, and why."""

    model_config = ConfigDict(extra="forbid")

    author: Author = Field(description="Who decides it.")
    reason: Sentence = Field(description="Why.")


class BundleRecord(Answer):
    """A bundle of the model repository."""

    product: str
    version: str
    state: Literal["active", "shadow", "available", "broken"] = Field(
        description="`active` decides, `shadow` judges the same images and decides nothing; both are loaded. "
        "`available` can be activated as far as is known; it is verified and tested when it is loaded. `broken` would "
        "not be served."
    )
    loaded: bool
    bundle: BundleFacts | None = Field(description="Null where its manifest cannot be read.")
    bytes: int | None = Field(description="Size of all files.")
    problem: BundleProblem | None = Field(description="Why it would not be served.")


class BundleList(Answer):
    """A product's bundles, newest first."""

    items: list[BundleRecord]
    active: str | None = Field(description="Version that decides.")
    shadow: str | None = Field(description="Version that watches.")


class ChoiceRecord(Answer):
    """Who gave a bundle its role, when and why."""

    product: str
    role: Literal["active", "shadow"]
    version: str | None = Field(description="Null: from then on no bundle had the role.")
    bundle_digest: str | None
    created_at: datetime
    author: str = Field(description="`plumbline` where nobody had chosen and the service wrote down what it did.")
    reason: str


class ChoiceHistory(Answer):
    """Choices, newest first; the first one is in force."""

    items: list[ChoiceRecord]


class Activation(ChoiceRecord):
    """A bundle that serves now, and the recipe that came into force with it."""

    provider: str
    recipe_revision: int


class PairedTestRecord(Answer):
    """An exact two-sided test of paired differences."""

    active_only: int
    shadow_only: int
    p_value: float = Field(description="Chance of a difference at least as uneven, if both were equally likely.")


class Disagreement(Answer):
    """An image that got different decisions."""

    inspection_id: str
    active_decision: str
    shadow_decision: str
    active_score: float
    shadow_score: float
    active_p_value: float
    shadow_p_value: float
    links: Links


class ComparisonRecord(Answer):
    """What two bundles said about the same images."""

    product: str
    active: str = Field(description="Version that decided.")
    shadow: str = Field(description="Version that watched.")
    pairs: int = Field(description="Images that both judged.")
    agreement: dict[str, dict[str, int]] = Field(
        description="How often each pair of decisions came, by the active bundle's and then the shadow's."
    )
    rejects: PairedTestRecord = Field(description="McNemar's exact test: does one reject more often than the other?")
    p_values: PairedTestRecord = Field(
        description="Sign test: does one find the parts more unusual, by its own calibration, than the other?"
    )
    examples: list[Disagreement] = Field(description="Newest first, twenty at most. Look at them.")
    summary: str = Field(description="All that in plain language.")


class SaidRecord(Answer):
    """What was said about an image, then or now."""

    decision: str
    score: float
    p_value: float
    provider: str


class ReplayRecord(Answer):
    """A stored verdict, and what came out when it was given again with the bundle and the recipe that it names."""

    inspection_id: str
    outcome: Literal["same", "different"]
    stored: SaidRecord
    replayed: SaidRecord
    score_difference: float = Field(description="Relative to the stored score.")
    tolerance: float = Field(
        description="How much of that is allowed: nothing where the CPU gave the verdict and gives it again, 1e-5 for "
        "tiled images and on CUDA, what the bundle's parity certificate allows from one provider to another. The "
        "decision has to be the same in any case."
    )
    bundle: BundleReference
    recipe_revision: int
    summary: str
    links: Links
