"""Products, health and readiness in responses."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field

from service.schemas.common import Answer
from service.schemas.inspection import BundleReference
from service.schemas.recipe import RecipeRecord


class BundleProblem(Answer):
    """A bundle that is not served."""

    product: str
    version: str
    type: str
    reason: str


class TilingFacts(Answer):
    overlap: int = Field(description="Pixels that neighbouring tiles share.")
    scale: float = Field(description="The image's size is multiplied by this before it is cut.")


class BundleFacts(BundleReference):
    teachers: list[str]
    created_at: datetime
    input_width: int
    input_height: int
    tiling: TilingFacts | None = Field(
        default=None, description="How larger images are cut into tiles of the input's size; null: not at all."
    )
    training_images: int
    evaluation: dict[str, float] | None


class CalibrationFacts(Answer):
    images: int
    groups: dict[str, int] = Field(description="Images per day or folder.")
    grouped_by: str = Field(description="`none`: all images count as one session, so other days are not covered.")
    provider: str
    smallest_false_reject_rate: float = Field(description="The smallest rate that so many images can certify.")


class Product(Answer):
    """A product of the model repository."""

    product: str
    status: Literal["ready", "loading", "broken", "inactive"] = Field(
        description="`inactive`: it has bundles, none of them was activated yet."
    )
    provider: str | None = None
    bundle: BundleFacts | None = None
    shadow: BundleReference | None = Field(default=None, description="The bundle that watches and decides nothing.")
    calibration: CalibrationFacts | None = None
    recipe: RecipeRecord | None = None
    broken_bundles: list[BundleProblem] = Field(default=[])


class ProductList(Answer):
    items: list[Product]


class Liveness(Answer):
    status: Literal["alive"] = "alive"


class Readiness(Answer):
    """Whether images should be sent here, and if not, why."""

    status: Literal["ready", "degraded", "loading", "draining", "not-ready"] = Field(
        description="`degraded` answers 200: some bundle is broken, every required product is served."
    )
    reasons: list[str]
    products: list[str] = Field(description="Products that are served.")
    broken_bundles: list[BundleProblem]
    version: str
