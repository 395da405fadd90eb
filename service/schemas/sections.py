"""The sections of a recipe as they are sent: fields, bounds and defaults, each declared here and nowhere else.

What depends on more than one field, or on what the service can read, is checked by `service.recipes.sections`, which
derives its classes from these. A new section is a model here, a field of `RecipeParts` and one of `RecipeChange`.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

MAX_COORDINATE_PX = 65_535


class InvalidReason(StrEnum):
    """Why an image is not judged."""

    UNDER_EXPOSED = "under-exposed"
    OVER_EXPOSED = "over-exposed"
    BLURRED = "blurred"
    EMPTY_FRAME = "empty-frame"
    FROZEN_FRAME = "frozen-frame"
    WRONG_SIZE = "wrong-size"


class Part(BaseModel):
    """Base of every section: immutable, and what it does not know it refuses."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


Coordinate = Annotated[float, Field(ge=0, le=MAX_COORDINATE_PX)]
Point = tuple[Coordinate, Coordinate]
Polygon = Annotated[
    tuple[Point, ...],
    Field(min_length=3, max_length=256, examples=[[[0, 0], [640, 0], [640, 480], [0, 480]]]),
]
Polygons = Annotated[tuple[Polygon, ...], Field(max_length=64)]


class RegionSetting(Part):
    """Which regions count. A part only fails, or needs review, when a region above that threshold counts; so a filter
    makes verdicts milder, never harsher. Regions are merged first, then filtered, then counted.
    """

    merge_distance_px: float = Field(
        default=0, ge=0, le=MAX_COORDINATE_PX, description="Pieces with at most so many pixels between them are one."
    )
    border_margin_px: float = Field(
        default=0,
        ge=0,
        le=MAX_COORDINATE_PX,
        description="A region that lies as a whole nearer than this to the image's edge does not count.",
    )
    min_area_px: float = Field(default=0, ge=0, description="A smaller region does not count.")
    min_peak: float | None = Field(
        default=None, description="A region whose highest map value is lower does not count; null: any counts."
    )
    max_count: int = Field(
        default=50, ge=1, le=500, description="Most regions to report, strongest first. Drops none from the verdict."
    )


class HeatmapSetting(Part):
    """The ends of the heatmap's scale, as values of the anomaly map. They change colours, never verdicts."""

    low: float | None = Field(default=None, description="No colour up to here; null: the median of good maps.")
    high: float | None = Field(default=None, description="Yellow here, red beyond; null: the fail threshold.")


class PixelSetting(Part):
    """What the camera sends. Nothing of it is ever guessed from an image."""

    pixel_format: str | None = Field(
        default=None, description="PFNC name of the camera's format, such as Mono12p; a camera buffer must have it."
    )
    bit_depth: int | None = Field(
        default=None,
        ge=8,
        le=16,
        description="Significant bits of a sample; null: those of the pixel format, else of the file.",
    )
    black_level: int | None = Field(default=None, ge=0, le=65534, description="Sample that becomes 0; null: 0.")
    white_level: int | None = Field(
        default=None, ge=1, le=65535, description="Sample that becomes 255; null: the largest of the bit depth."
    )
    width: int | None = Field(default=None, ge=1, le=65535, description="Expected width, in pixels.")
    height: int | None = Field(default=None, ge=1, le=65535, description="Expected height, in pixels.")


Share = Annotated[float, Field(ge=0, le=1)]
GrayLevel = Annotated[float, Field(ge=0, le=255)]


class QualityLimits(Part):
    """When an image is not worth a verdict. null: the limit that the bundle's calibration images give."""

    min_brightness: GrayLevel | None = Field(default=None, description="Mean gray level; darker is under-exposed.")
    max_brightness: GrayLevel | None = Field(default=None, description="Mean gray level; brighter is over-exposed.")
    max_dark_share: Share | None = Field(default=None, description="Share of black pixels; more is under-exposed.")
    max_bright_share: Share | None = Field(default=None, description="Share of saturated pixels; more is over-exposed.")
    min_sharpness: float | None = Field(
        default=None, ge=0, description="Variance of the Laplacian at the network's size; less is blurred."
    )
    min_contrast: float | None = Field(
        default=None, ge=0, description="Standard deviation of the gray levels; less is an empty frame."
    )
    frozen_after: int | None = Field(
        default=None,
        ge=2,
        le=1_000_000,
        description="This many images in a row that are equal byte by byte, from one station, are a frozen camera; "
        "null: not checked.",
    )
    off: list[InvalidReason] = Field(default=[], description="Checks that are switched off.")


class Keep(Part):
    """How long images and maps of one decision are kept. What exceeds either limit goes; the records stay."""

    days: float | None = Field(default=None, gt=0, le=36_500, description="So many days; null: for ever.")
    count: int | None = Field(default=None, ge=0, description="The newest so many; null: any number.")


DecisionName = Literal["pass", "review", "fail", "invalid"]
Retention = dict[DecisionName, Keep]


class RecipeParts(Part):
    """Everything in a recipe that is not a threshold."""

    roi: Polygons = Field(
        default=(), description="Only what lies in one of these polygons is judged; none: everything. Camera pixels."
    )
    ignore: Polygons = Field(default=(), description="Nothing in one of these polygons is judged. Camera pixels.")
    regions: RegionSetting = Field(default=RegionSetting(), description="Which regions count.")
    heatmap: HeatmapSetting = Field(default=HeatmapSetting(), description="The heatmap's scale.")
    pixels: PixelSetting = Field(default=PixelSetting(), description="What the camera sends.")
    quality: QualityLimits = Field(default=QualityLimits(), description="When an image is not worth a verdict.")
    retention: Retention = Field(
        default={}, description="How long images and maps are kept, by decision; what is not named is kept for ever."
    )
