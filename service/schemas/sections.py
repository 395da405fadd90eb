"""The sections of a recipe in requests and responses: the only declaration of their fields, limits and defaults.

`service.recipes.sections` derives its classes from these and adds the checks that depend on several fields or on the
supported pixel formats. To add a section, add a model here, a field of `RecipeParts` and a field of `RecipeEdit`.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from service.schemas.common import LABEL_PATTERN

MAX_COORDINATE_PX = 65_535


class InvalidReason(StrEnum):
    """Reasons for which the quality check rejects an image."""

    UNDER_EXPOSED = "under-exposed"
    OVER_EXPOSED = "over-exposed"
    BLURRED = "blurred"
    EMPTY_FRAME = "empty-frame"
    FROZEN_FRAME = "frozen-frame"
    WRONG_SIZE = "wrong-size"


class Section(BaseModel):
    """Base class of every section: immutable, and without unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


Coordinate = Annotated[float, Field(ge=0, le=MAX_COORDINATE_PX)]
Point = tuple[Coordinate, Coordinate]
Polygon = Annotated[
    tuple[Point, ...],
    Field(min_length=3, max_length=256, examples=[[[0, 0], [640, 0], [640, 480], [0, 480]]]),
]
Polygons = Annotated[tuple[Polygon, ...], Field(max_length=64)]


class RegionSetting(Section):
    """Filters that decide which regions count.

    A part fails, or needs review, only if at least one region above the threshold counts. A filter can therefore make a
    decision milder, but never stricter. Regions are merged, then filtered, then counted.
    """

    merge_distance_px: float = Field(
        default=0, ge=0, le=MAX_COORDINATE_PX, description="Regions at most this many pixels apart are merged."
    )
    border_margin_px: float = Field(
        default=0,
        ge=0,
        le=MAX_COORDINATE_PX,
        description="A region that lies completely within this distance from the image border does not count.",
    )
    min_area_px: float = Field(default=0, ge=0, description="A region with a smaller area does not count.")
    min_peak: float | None = Field(
        default=None, description="A region with a smaller peak value does not count; null: no limit."
    )
    max_count: int = Field(
        default=50,
        ge=1,
        le=500,
        description="Largest number of regions in the response, highest peak first. It has no effect on the decision.",
    )


class HeatmapSetting(Section):
    """Limits of the heatmap's colour scale, as values of the anomaly map. They have no effect on the decision."""

    low: float | None = Field(
        default=None, description="Values up to this one have no colour; null: the median of good maps."
    )
    high: float | None = Field(default=None, description="The colour changes at this value; null: the fail threshold.")


class PixelSetting(Section):
    """Format of the camera's images. The service never guesses these values from an image."""

    pixel_format: str | None = Field(
        default=None,
        pattern=LABEL_PATTERN,
        description="PFNC name, such as Mono12p. A camera buffer must have this pixel format.",
    )
    bit_depth: int | None = Field(
        default=None,
        ge=8,
        le=16,
        description="Significant bits per sample; null: those of the pixel format or of the file.",
    )
    black_level: int | None = Field(
        default=None, ge=0, le=65534, description="Sample value that is mapped to 0; null: 0."
    )
    white_level: int | None = Field(
        default=None,
        ge=1,
        le=65535,
        description="Sample value that is mapped to 255; null: the largest value of the bit depth.",
    )
    width: int | None = Field(
        default=None,
        ge=1,
        le=65535,
        description="Expected width, in pixels; null: at least half of the smallest width that the bundle was made "
        "from.",
    )
    height: int | None = Field(
        default=None,
        ge=1,
        le=65535,
        description="Expected height, in pixels; null: at least half of the smallest height that the bundle was made "
        "from. Unless both width and height are declared, the aspect ratio must be within 5 % of those images.",
    )
    tolerate_stray_bytes: bool = Field(
        default=False,
        description="Accept JPEG files with stray bytes before restart markers, which some USB cameras insert.",
    )


Share = Annotated[float, Field(ge=0, le=1)]
GrayLevel = Annotated[float, Field(ge=0, le=255)]


class QualityLimits(Section):
    """Limits of the quality check. Null: the limit derived from the bundle's calibration images."""

    min_brightness: GrayLevel | None = Field(
        default=None, description="Smallest mean gray level; below, the image is under-exposed."
    )
    max_brightness: GrayLevel | None = Field(
        default=None, description="Largest mean gray level; above, the image is over-exposed."
    )
    max_dark_share: Share | None = Field(
        default=None, description="Largest share of black pixels; above, the image is under-exposed."
    )
    max_bright_share: Share | None = Field(
        default=None, description="Largest share of saturated pixels; above, the image is over-exposed."
    )
    min_sharpness: float | None = Field(
        default=None,
        ge=0,
        description="Smallest variance of the Laplacian at the network's input size; below, the image is blurred.",
    )
    min_contrast: float | None = Field(
        default=None, ge=0, description="Smallest standard deviation of the gray levels; below, the frame is empty."
    )
    frozen_after: int | None = Field(
        default=None,
        ge=2,
        le=1_000_000,
        description="Number of consecutive identical images of one station from which the camera counts as frozen; "
        "null: not checked.",
    )
    off: list[InvalidReason] = Field(default=[], description="Checks that are disabled.")


class Keep(Section):
    """How long images and anomaly maps of one decision are kept.

    Those beyond either limit are removed; the records of the inspections stay.
    """

    days: float | None = Field(
        default=None, gt=0, le=36_500, description="Number of days to keep them; null: no limit."
    )
    count: int | None = Field(
        default=None, ge=0, le=2**53, description="Number of newest inspections to keep them for; null: no limit."
    )


DecisionName = Literal["pass", "review", "fail", "invalid"]
Retention = dict[DecisionName, Keep]


class StorageLimit(Section):
    """Largest size of all images and anomaly maps of the product.

    If they are larger, the oldest ones are removed, decision by decision; the records of the inspections stay.
    """

    max_bytes: int | None = Field(
        default=None, ge=0, le=2**53, description="Largest size of all of them, in bytes; null: no limit."
    )
    keep_longer: tuple[DecisionName, ...] = Field(
        default=("fail", "review"),
        max_length=4,
        description="Decisions whose images are removed only after those of all other decisions; those of the first "
        "one are removed last.",
    )


class RecipeParts(Section):
    """All sections of a recipe; everything except the thresholds."""

    roi: Polygons = Field(
        default=(),
        description="Only the area inside these polygons is judged, in pixels of the camera image; empty: everything.",
    )
    ignore: Polygons = Field(
        default=(), description="The area inside these polygons is not judged, in pixels of the camera image."
    )
    regions: RegionSetting = Field(default=RegionSetting(), description="Filters that decide which regions count.")
    heatmap: HeatmapSetting = Field(default=HeatmapSetting(), description="Colour scale of the heatmap.")
    pixels: PixelSetting = Field(default=PixelSetting(), description="Format of the camera's images.")
    quality: QualityLimits = Field(default=QualityLimits(), description="Limits of the quality check.")
    retention: Retention = Field(
        default={},
        description="How long images and anomaly maps are kept, per decision. Decisions that are not listed have no "
        "limit.",
    )
    storage: StorageLimit = Field(
        default=StorageLimit(), description="Largest size of the images and anomaly maps of the product."
    )
