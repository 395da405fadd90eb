"""Responses about products, health and readiness."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field

from service.schemas.common import RateBound, ResponseModel
from service.schemas.inspection import BundleReference
from service.schemas.recipe import RecipeRecord


class BundleProblem(ResponseModel):
    """Why the service does not serve a bundle."""

    product: str
    version: str
    type: str
    reason: str


class TilingFacts(ResponseModel):
    """How an image is divided into tiles."""

    overlap: int = Field(description="Overlap of adjacent tiles, in pixels.")
    scale: float = Field(description="Factor by which the image is resized before tiling.")


class ParityFacts(ResponseModel):
    """Difference of the graph's results from the golden maps of the bundle.

    The golden maps are those of the trained network, or of the graph itself where its precision is lower than `fp32`.
    """

    measured: float = Field(description="Relative difference at export.")
    tolerance: float = Field(description="Largest relative difference at which the bundle is served.")
    provider: str = Field(description="Execution provider that it was measured on.")


class BundleFacts(BundleReference):
    """The essential values of a bundle's manifest."""

    teachers: list[str]
    created_at: datetime
    input_width: int
    input_height: int
    tiling: TilingFacts | None = Field(
        default=None,
        description="How larger images are divided into tiles of the input size; null if images are resized instead.",
    )
    training_images: int
    weak: list[str] = Field(
        default=[],
        description="Why training would have refused the bundle without `--allow-weak`; empty if it passed every "
        "check.",
    )
    evaluation: dict[str, float] | None
    parity: ParityFacts | None = Field(default=None, description="Null: a service of an older version.")
    precision: str = Field(
        default="fp32",
        description="What the networks of the graph compute with: `fp32`, `fp16` or `int8`. Distances: `fp32`.",
    )
    calibrated_on: str | None = Field(
        default=None,
        description="Runtime and execution provider that the thresholds were calibrated on. Null: not recorded.",
    )
    smallest_rate_bound: RateBound | None = Field(
        default=None,
        description="What the smallest false-reject rate that the calibration images certify means. Null: a service "
        "of an older version.",
    )


class GroupShift(ResponseModel):
    """Estimated shift of the scores of good images in a capture group that training has not seen.

    It is computed from leave-one-group-out scores of a memory bank alone. It is an estimate, not a bound.
    """

    groups: int
    images: int
    known_rate: float = Field(description="Share of good images of known groups above the threshold of the estimate.")
    new_rate: float = Field(description="Mean over the groups of this share for a group that was left out.")
    worst_rate: float = Field(description="The largest of these shares.")
    worst_group: str


class SanityFigures(ResponseModel):
    """Separation of held-out good images from copies of them with synthetic anomalies."""

    images: int
    synthetic: int
    image_auroc: float
    pixel_auroc: float


class CalibrationFacts(ResponseModel):
    """The essential values of a bundle's calibration card."""

    images: int
    groups: dict[str, int] = Field(description="Number of images per group.")
    grouped_by: str = Field(
        description="How images were assigned to groups: `date-in-name`, `folder` or `prefix` (of file names). `none`: "
        "all images count as one session, so the calibration does not cover other days."
    )
    provider: str
    smallest_false_reject_rate: float = Field(
        description="Smallest false-reject rate that this number of images can certify."
    )
    smallest_rate_bound: RateBound | None = Field(
        default=None, description="What the smallest rate means on average and for this calibration."
    )
    group_shift: GroupShift | None = Field(
        default=None, description="Null if there is one group, or enough groups for the scores to show the shift."
    )
    sanity: SanityFigures | None = Field(default=None, description="Null for a bundle from before this check existed.")
    notes: list[str] = Field(default=[], description="What the calibration does not cover.")


class Product(ResponseModel):
    """A product of the model repository."""

    product: str
    status: Literal["ready", "loading", "broken", "inactive"] = Field(
        description="`inactive`: the product has bundles, but none has been activated yet."
    )
    provider: str | None = Field(
        default=None, description="Null: no bundle is active, or it was not loaded since the service started."
    )
    memory: Literal["pinned", "loaded", "on-demand"] | None = Field(
        default=None,
        description="`pinned`: the bundle stays in memory. `loaded`: it is in memory until another product needs the "
        "space. `on-demand`: it is loaded with the next image. Null: no bundle is active, or a service of an older "
        "version.",
    )
    bundle: BundleFacts | None = None
    shadow: BundleReference | None = Field(
        default=None, description="The shadow bundle. It inspects the same images, but does not decide."
    )
    calibration: CalibrationFacts | None = None
    recipe: RecipeRecord | None = None
    broken_bundles: list[BundleProblem] = Field(default=[])


class ProductList(ResponseModel):
    """All products of the model repository."""

    items: list[Product]


class Liveness(ResponseModel):
    """The process runs and responds."""

    status: Literal["alive"] = "alive"


class Readiness(ResponseModel):
    """Whether the service accepts images, and the reasons if it does not."""

    status: Literal["ready", "degraded", "loading", "draining", "not-ready"] = Field(
        description="`degraded` has HTTP status 200: a bundle is broken, but all required products are served."
    )
    reasons: list[str] = Field(default=[])
    products: list[str] = Field(default=[], description="Products that are served.")
    broken_bundles: list[BundleProblem] = Field(default=[])
    version: str | None = Field(
        default=None,
        description="Version of the service. Null, and the lists are empty, for other machines if requests need a key.",
    )
    access: Literal["required", "local", "insecure"] | None = Field(
        default=None,
        description="`required`: requests need an API key or a session. `local`: there is neither a key nor an "
        "account, and only this machine may use the service. `insecure`: everyone who reaches the port may do "
        "everything. Null: a service of an older version.",
    )
