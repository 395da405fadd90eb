"""Responses about inspections."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field

from service.schemas.common import Guarantee, RateBound, ResponseModel
from service.schemas.sections import DecisionName, InvalidReason


class Region(ResponseModel):
    """A connected region of the anomaly map above the threshold of the decision, in pixels of the submitted image."""

    bbox: tuple[int, int, int, int] = Field(description="Bounding box: x, y, width, height.")
    polygon: list[tuple[int, int]] = Field(description="Outer contour as [x, y] points.")
    area_px: int
    peak: float = Field(description="Largest value of the anomaly map in the region.")
    peak_xy: tuple[int, int]


class Thresholds(ResponseModel):
    """The thresholds of the raw score that were applied, and the false-reject rate that they guarantee."""

    fail: float = Field(description="A part fails if its score is greater.")
    review: float = Field(description="A part needs review if its score is greater.")
    target_false_reject_rate: float | None = Field(
        description="Upper bound of the share of good parts that fail; null if the threshold was set by hand."
    )
    false_reject_bound: RateBound | None = Field(
        default=None,
        description="What the rate means on average and for this calibration; null if the threshold was set by hand.",
    )
    certified: bool = Field(
        description="Whether the calibration images certify that bound. False while the guarantee is suspended."
    )
    guarantee: Guarantee | None = Field(
        default=None,
        description="`certified`, `suspended` because drift was found when the part was inspected (see "
        "`/v1/products/{product}/drift`), or `none`. Null: a service of an older version.",
    )
    calibration_images: int = Field(description="Number of good images from which p-values and thresholds are derived.")
    proposal_id: str | None = Field(
        default=None,
        description="Id of the proposal that supplied these images; null: they are those of the bundle's calibration "
        "card.",
    )
    conservative: bool = Field(
        description="True if the thresholds were derived from whole images, but only a part of this image was judged. "
        "This can only lower the score: the bound still holds, and the actual share of rejected good parts is smaller."
    )


VerdictName = Literal["pass", "review", "fail"]
PreviewLayer = Literal["image", "overlay"]
"""What a preview shows: the stored image, or the heatmap alone."""
InspectionLabel = Literal["good", "defect", "unsure", "disputed"]
"""The label of an inspection, from the current reviews of all reviewers."""


class FilterEffect(ResponseModel):
    """The effect of the recipe's region filters."""

    changed_verdict: bool = Field(description="Whether the decision is milder than the decision by the score alone.")
    decision_by_score: VerdictName = Field(
        description="Decision by the score alone; it is consistent with the p-value."
    )
    dropped_regions: dict[str, int] = Field(
        description="Number of regions above the threshold of `decision_by_score` that do not count, per filter: "
        "`border`, `area` or `peak`."
    )


class BundleReference(ResponseModel):
    """Identity of a bundle."""

    digest: str = Field(description="SHA-256 of the bundle's manifest.")
    version: str
    method: str


class HeatmapScaleFacts(ResponseModel):
    """The product's fixed scale of scores and heatmaps, as it was when the image was inspected."""

    low: float = Field(description="Median of the maps of good parts: 0 on the scale, drawn without a colour.")
    high: float = Field(description="The fail threshold: 1 on the scale, where the colour changes.")


class BufferLayout(ResponseModel):
    """Layout of a camera buffer."""

    pixel_format: str = Field(description="PFNC name.")
    width: int
    height: int
    stride: int | None = Field(
        description="Bytes from the start of one row to the start of the next; null if rows have no padding."
    )


class ImagePixels(ResponseModel):
    """How the bytes of the image were interpreted."""

    layout: BufferLayout | None = Field(description="Layout of the camera buffer; null for an encoded image.")
    bit_depth: int | None
    black_level: int
    white_level: int | None
    tolerate_stray_bytes: bool = Field(
        default=False, description="Whether stray bytes before restart markers of a JPEG file were accepted."
    )


class ImageFacts(ResponseModel):
    """Properties of the submitted image."""

    media_type: str = Field(description="Detected from the data; `application/octet-stream` for a camera buffer.")
    width: int
    height: int
    bytes: int
    sha256: str = Field(description="SHA-256 of the submitted bytes.")
    pixels: ImagePixels | None = Field(
        default=None, description="How the bytes were interpreted, if the bytes alone do not determine it."
    )


class InvalidFact(ResponseModel):
    """One reason why the quality check rejected the image."""

    reason: InvalidReason
    detail: str = Field(description="Explanation with the measured value and the limit.")
    measure: str = Field(description="Name of the measured quantity.")
    measured: float
    limit: float


class QualityFacts(ResponseModel):
    """Results of the quality check, measured on the image at the input size of the network."""

    brightness: float = Field(description="Mean gray level, 0 to 255.")
    dark_share: float = Field(description="Share of pixels that are black in all channels.")
    bright_share: float = Field(description="Share of pixels that are saturated in at least one channel.")
    sharpness: float = Field(description="Variance of the Laplacian of the gray image.")
    contrast: float = Field(description="Standard deviation of the gray levels.")
    red_share: float | None = Field(
        default=None,
        description="Share of red in the mean colour; a third for a gray image. Null for an older inspection.",
    )
    blue_share: float | None = Field(default=None, description="The same of blue.")


class Links(ResponseModel):
    """URLs of resources that belong to the inspection, relative to the service."""

    self: str
    heatmap: str
    map: str | None = Field(description="Null for an image that the quality check rejected; it has no anomaly map.")
    image: str
    product: str


class JudgedImage(ResponseModel):
    """The decision about an image, and everything it is based on."""

    product: str
    decision: DecisionName = Field(
        description="`invalid`: the quality check rejected the image (see `invalid_reasons`), so the part was not "
        "inspected."
    )
    score: float | None = Field(
        description="Raw, unbounded score of the judged part of the image; null if the image is invalid."
    )
    p_value: float | None = Field(
        description="Share of good parts with a score at least as large, estimated from the calibration images. It is "
        "at most the target false-reject rate exactly if the score is above the fail threshold. Null if the image is "
        "invalid."
    )
    thresholds: Thresholds
    heatmap_scale: HeatmapScaleFacts
    judged_share: float = Field(description="Share of the image inside the recipe's ROI and outside ignore polygons.")
    regions: list[Region]
    filtered: FilterEffect | None = Field(description="Effect of the region filters; null if they dropped no region.")
    bundle: BundleReference
    provider: str
    recipe_revision: int
    image: ImageFacts
    invalid_reasons: list[InvalidFact] = Field(
        default=[], description="Why the decision is `invalid`; empty for every other decision."
    )
    quality: QualityFacts | None = Field(
        default=None,
        description="Results of the quality check; null for inspections stored before the service had this check.",
    )
    timings_ms: dict[str, float] = Field(description="Duration of each stage in milliseconds.")
    batch_size: int


class Inspection(JudgedImage):
    """A stored inspection: the decision and everything it is based on."""

    id: str = Field(description="UUIDv7: ids are ordered by time.")
    part_id: str | None
    station: str | None
    lot: str | None
    captured_at: datetime | None
    created_at: datetime
    request_id: str | None
    label: InspectionLabel | None = Field(
        default=None,
        description="Label by reviews: `disputed` if the reviewers disagree, null without a review. Always null in the "
        "response to an image.",
    )
    artefacts_removed_at: datetime | None = Field(
        default=None, description="When retention removed image and anomaly map; null if they were not removed."
    )
    links: Links


class PreviewImage(ResponseModel):
    """An image inside of a response."""

    media_type: str
    width: int
    height: int
    data: str = Field(description="The image, in Base64.")


class Trial(JudgedImage):
    """The decision about an image that is not stored."""

    preview: PreviewImage | None = Field(description="The image at a limited size; null if `max_side` is 0.")
    overlay: PreviewImage | None = Field(
        description="The heatmap alone, of the same size, to show above the preview, as `GET "
        "/v1/inspections/{inspection_id}/preview?layer=overlay` returns it. Null if `max_side` is 0."
    )


class InspectionPage(ResponseModel):
    """Inspections, newest first."""

    items: list[Inspection]
    next_cursor: str | None = Field(description="Value of `cursor` for the next page; null on the last page.")
