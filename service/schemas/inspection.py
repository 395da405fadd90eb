"""What the API says and takes, as JSON. The client uses the same classes, so nothing heavy is imported here."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field

from service.schemas.common import Answer
from service.schemas.sections import DecisionName, InvalidReason


class Region(Answer):
    """A connected area above the level of the verdict, in pixels of the image that was sent."""

    bbox: tuple[int, int, int, int] = Field(description="x, y, width, height.")
    polygon: list[tuple[int, int]] = Field(description="Outer contour as [x, y] points.")
    area_px: int
    peak: float = Field(description="Highest value of the anomaly map inside.")
    peak_xy: tuple[int, int]


class Thresholds(Answer):
    """The levels of the raw score that the part was judged by, and what they guarantee."""

    fail: float = Field(description="A part fails strictly above.")
    review: float = Field(description="A part needs review strictly above.")
    target_false_reject_rate: float | None = Field(
        description="Bound on the share of good parts that fail; null where the threshold was set by hand."
    )
    certified: bool = Field(description="Whether the calibration images vouch for that bound.")
    calibration_images: int = Field(description="Good images behind p-values and thresholds.")
    proposal_id: str | None = Field(
        default=None, description="The proposal that these images belong to; null: the bundle's calibration card."
    )
    conservative: bool = Field(
        description="True where thresholds stem from whole images and a part of this one was judged. That can only "
        "lower its score: the bound holds, and the real share of rejected good parts lies below it."
    )


VerdictName = Literal["pass", "review", "fail"]


class FilterEffect(Answer):
    """What the recipe's region filters did."""

    changed_verdict: bool = Field(description="Whether the verdict is milder than the score alone says.")
    decision_by_score: VerdictName = Field(description="What the score alone says; it agrees with the p-value.")
    dropped_regions: dict[str, int] = Field(
        description="Regions above that level that do not count, by the filter: `border`, `area` or `peak`."
    )


class BundleReference(Answer):
    digest: str = Field(description="sha256 of the bundle's manifest.")
    version: str
    method: str


class BufferLayout(Answer):
    """How a camera buffer is laid out."""

    pixel_format: str = Field(description="PFNC name.")
    width: int
    height: int
    stride: int | None = Field(description="Bytes from line to line; null: without padding.")


class ImagePixels(Answer):
    """How the image's bytes were read."""

    layout: BufferLayout | None = Field(description="Of a camera buffer; null for an encoded image.")
    bit_depth: int | None
    black_level: int
    white_level: int | None


class ImageFacts(Answer):
    media_type: str = Field(description="Sniffed from the data; `application/octet-stream` for a camera buffer.")
    width: int
    height: int
    bytes: int
    sha256: str = Field(description="Of the bytes that were sent.")
    pixels: ImagePixels | None = Field(
        default=None, description="How they were read, where the bytes alone do not say it."
    )


class InvalidFact(Answer):
    """One reason why an image was not worth a verdict."""

    reason: InvalidReason
    detail: str = Field(description="A sentence with the measured value and the limit.")
    measure: str = Field(description="What was measured.")
    measured: float
    limit: float


class QualityFacts(Answer):
    """What was measured of the image, on the size that the network sees."""

    brightness: float = Field(description="Mean gray level, 0 to 255.")
    dark_share: float = Field(description="Share of pixels that are black in every channel.")
    bright_share: float = Field(description="Share of pixels that are saturated in some channel.")
    sharpness: float = Field(description="Variance of the Laplacian of the gray image.")
    contrast: float = Field(description="Standard deviation of the gray levels.")


class Links(Answer):
    self: str
    heatmap: str
    map: str | None = Field(description="null for an invalid image, which no graph looked at.")
    image: str
    product: str


class Inspection(Answer):
    """A verdict and what it rests on."""

    id: str = Field(description="UUIDv7: ordered by time.")
    product: str
    decision: DecisionName = Field(
        description="`invalid`: the image was not worth a verdict, see `invalid_reasons`. The part is not inspected."
    )
    score: float | None = Field(
        description="Raw image score, unbounded, over the judged part of the image; null where it is invalid."
    )
    p_value: float | None = Field(
        description="How usual the score is among good parts; at most the target exactly when the score fails the "
        "part. null as the score."
    )
    thresholds: Thresholds
    judged_share: float = Field(description="Share of the image inside the recipe's ROI and not ignored.")
    regions: list[Region]
    filtered: FilterEffect | None = Field(description="What region filters did; null where they dropped nothing.")
    bundle: BundleReference
    provider: str
    recipe_revision: int
    image: ImageFacts
    invalid_reasons: list[InvalidFact] = Field(default=[], description="Why the decision is `invalid`; else empty.")
    quality: QualityFacts | None = Field(
        default=None, description="What was measured of the image; null in inspections from before it was."
    )
    timings_ms: dict[str, float] = Field(description="Milliseconds per stage.")
    batch_size: int
    part_id: str | None
    station: str | None
    lot: str | None
    captured_at: datetime | None
    created_at: datetime
    request_id: str | None
    artefacts_removed_at: datetime | None = Field(
        default=None, description="When retention removed image and map; null: it did not."
    )
    links: Links


class InspectionPage(Answer):
    """Inspections, newest first."""

    items: list[Inspection]
    next_cursor: str | None = Field(description="Send as `cursor` for the next page; null on the last one.")
