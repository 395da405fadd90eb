"""The parts of a recipe beside its thresholds: each a value of its own, with a default that changes nothing.

A new part is a model here, a field of `RecipeParts` and one of `RecipeChange` in `service/schemas/recipe.py`. The
client uses these classes too, so nothing heavy is imported here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

from service.errors import InvalidRequest
from service.inspection.decoding.pixel_formats import PIXEL_FORMATS, PixelRules, RawLayout
from service.inspection.errors import PixelMismatch, UnknownPixelFormat
from service.inspection.quality import InvalidReason
from service.inspection.quality import QualityLimits as Limits

MAX_COORDINATE_PX = 65_535


class Part(BaseModel):
    """Base of every part: immutable, and what it does not know it refuses."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


Coordinate = Annotated[float, Field(ge=0, le=MAX_COORDINATE_PX)]
Point = tuple[Coordinate, Coordinate]


def _require_simple(polygon: tuple[Point, ...]) -> tuple[Point, ...]:
    """Refuse a polygon of which nobody could say what is inside."""
    points = np.array(polygon, np.float64)
    edges = np.roll(points, -1, axis=0) - points
    if (repeated := np.flatnonzero((edges == 0).all(axis=1))).size:
        corner = tuple(polygon[int(repeated[0])])
        raise ValueError(f"the point {corner} comes twice in a row; a polygon closes by itself, leave the last one out")
    if (crossing := _crossing(points, edges)) is not None:
        first, second = crossing
        raise ValueError(f"the edge after point {first + 1} meets the edge after point {second + 1}; draw it as two")
    x, y = points.T
    area = abs(float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))) / 2
    if area < 1:
        raise ValueError(f"it encloses {area:g} square pixels; 1 is the least")
    return polygon


def _crossing(points: npt.NDArray[np.float64], edges: npt.NDArray[np.float64]) -> tuple[int, int] | None:
    """Two edges that have a point in common which is not the corner between them; None where there are none."""
    count = len(points)
    ends = points + edges

    def sides(of: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """On which side of edge i the point j lies, [i, j]: the sign of a cross product."""
        apart = of[None, :, :] - points[:, None, :]
        return np.sign(edges[:, None, 0] * apart[..., 1] - edges[:, None, 1] * apart[..., 0])

    low, high = np.minimum(points, ends), np.maximum(points, ends)
    boxes_meet = ((low[:, None] <= high[None]) & (low[None] <= high[:, None])).all(axis=-1)
    divided = sides(points) * sides(ends) <= 0  # the ends of j lie on both sides of i, or on it
    meet = boxes_meet & divided & divided.T
    number = np.arange(count)
    neighbours = (number[None] - number[:, None]) % count
    meet &= (neighbours > 1) & (neighbours < count - 1)
    # Neighbours always meet in their corner; they must not run back on each other.
    following = np.roll(edges, -1, axis=0)
    cross = edges[:, 0] * following[:, 1] - edges[:, 1] * following[:, 0]
    back = (cross == 0) & ((edges * following).sum(axis=1) < 0)
    meet[number[back], (number[back] + 1) % count] = True
    found = np.argwhere(meet)
    return None if not found.size else (int(found[0].min()), int(found[0].max()))


Polygon = Annotated[
    tuple[Point, ...],
    Field(min_length=3, max_length=256, examples=[[[0, 0], [640, 0], [640, 480], [0, 480]]]),
    AfterValidator(_require_simple),
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
        description="A region that lies as a whole nearer than this to the picture's edge does not count.",
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

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low is not None and self.high is not None and self.low >= self.high:
            raise ValueError(f"heatmap.low {self.low:g} is not below heatmap.high {self.high:g}")
        return self


class PixelSetting(Part):
    """What the camera sends. Nothing of it is ever guessed from a picture."""

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

    @field_validator("pixel_format")
    @classmethod
    def _known(cls, name: str | None) -> str | None:
        if name is not None and name not in PIXEL_FORMATS:
            raise ValueError(UnknownPixelFormat(name, PIXEL_FORMATS).detail)
        return name

    @model_validator(mode="after")
    def _possible(self) -> Self:
        depth = self.depth
        if depth is not None and self.pixel_format is not None and depth > PIXEL_FORMATS[self.pixel_format].bits:
            raise ValueError(f"pixels.bit_depth {depth} is more than the bits of {self.pixel_format}")
        if depth is not None and max(self.white_level or 0, (self.black_level or 0) + 1) >= 2**depth:
            raise ValueError(f"pixels.black_level and white_level must fit into {depth} bits")
        if self.white_level is not None and (self.black_level or 0) >= self.white_level:
            raise ValueError(f"pixels.black_level {self.black_level or 0} is not below white_level {self.white_level}")
        return self

    @property
    def depth(self) -> int | None:
        """Significant bits of a sample, where the recipe says it in one way or the other."""
        if self.bit_depth is None and self.pixel_format is not None:
            return PIXEL_FORMATS[self.pixel_format].bits
        return self.bit_depth

    def layout(
        self,
        pixel_format: str | None = None,
        width: int | None = None,
        height: int | None = None,
        stride: int | None = None,
    ) -> RawLayout | None:
        """The layout of a camera buffer: what its sender states, and for the rest what is declared here.

        Returns:
            None where the sender states nothing at all: then the picture is an encoded one.

        Raises:
            UnknownPixelFormat: The stated format is not read.
            InvalidRequest: Something is stated neither by the sender nor here, or the layout is not possible.
            PixelMismatch: The stated format is not the declared one.
        """
        if (pixel_format, width, height, stride) == (None, None, None, None):
            return None
        if None not in (pixel_format, self.pixel_format) and pixel_format != self.pixel_format:
            raise PixelMismatch(f"it is sent as {pixel_format}, declared is {self.pixel_format}")
        pixel_format, width, height = pixel_format or self.pixel_format, width or self.width, height or self.height
        if pixel_format is None or width is None or height is None:
            raise InvalidRequest(
                "A camera buffer needs its pixel format, width and height: send X-Pixel-Format, X-Width and X-Height, "
                "or declare them in the recipe under `pixels`. An encoded picture is sent without any of these headers."
            )
        return RawLayout(pixel_format, width, height, stride)

    def rules(self, layout: RawLayout | None) -> PixelRules:
        """How a picture of this camera is read."""
        return PixelRules(layout, self.depth, self.black_level or 0, self.white_level)


Share = Annotated[float, Field(ge=0, le=1)]
GrayLevel = Annotated[float, Field(ge=0, le=255)]


class QualityLimits(Part):
    """When a picture is not worth a verdict. null: the limit that the bundle's calibration images give."""

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
        description="This many pictures in a row that are equal byte by byte, from one station, are a frozen camera; "
        "null: not checked.",
    )
    off: list[InvalidReason] = Field(default=[], description="Checks that are switched off.")

    def combine(self, bundle: Limits, pixels: PixelSetting) -> Limits:
        """The limits in force: what is set here, for the rest what the bundle gives, less what is switched off.

        Args:
            bundle: Limits from the calibration images.
            pixels: Declares the expected size.
        """
        own = {name: getattr(self, name) for name in _MEASURED}
        limits = replace(bundle, **{name: value for name, value in own.items() if value is not None})
        limits = replace(limits, width=pixels.width, height=pixels.height)
        return replace(limits, **{name: None for reason in self.off for name in _LIMITS_OF[reason]})


_LIMITS_OF: Mapping[InvalidReason, tuple[str, ...]] = {
    InvalidReason.UNDER_EXPOSED: ("min_brightness", "max_dark_share"),
    InvalidReason.OVER_EXPOSED: ("max_brightness", "max_bright_share"),
    InvalidReason.BLURRED: ("min_sharpness",),
    InvalidReason.EMPTY_FRAME: ("min_contrast",),
    InvalidReason.FROZEN_FRAME: (),
    InvalidReason.WRONG_SIZE: ("width", "height"),
}
_MEASURED = (
    "min_brightness", "max_brightness", "max_dark_share", "max_bright_share", "min_sharpness", "min_contrast",
)  # fmt: skip


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
    quality: QualityLimits = Field(default=QualityLimits(), description="When a picture is not worth a verdict.")
    retention: Retention = Field(
        default={}, description="How long images and maps are kept, by decision; what is not named is kept for ever."
    )


def levels(parts: RecipeParts) -> dict[str, Any]:
    """The values that are levels on one bundle's scale of scores, maps or prepared pictures, and mean nothing on
    another's."""
    return {
        "heatmap": parts.heatmap.model_dump(),
        "regions": {"min_peak": parts.regions.min_peak},
        "quality": {"min_sharpness": parts.quality.min_sharpness},
    }


def merge(current: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """Lay a change over current values, as JSON Merge Patch does (RFC 7396).

    Args:
        current: The values of a recipe.
        change: What is to change. What it does not name keeps its value, at every depth; None takes a value back to its
            default; a list replaces a list.
    """
    merged = dict(current)
    for name, value in change.items():
        before = merged.get(name)
        if value is None:
            merged.pop(name, None)
        elif isinstance(value, Mapping) and isinstance(before, Mapping):
            merged[name] = merge(before, value)
        else:
            merged[name] = value
    return merged


def differences(before: Mapping[str, Any], after: Mapping[str, Any], at: str = "") -> Iterator[tuple[str, Any, Any]]:
    """What is different in the values of two recipes: where, by dotted path, with both values.

    Lists are values: an ROI with one corner moved is another ROI.
    """
    for name in dict.fromkeys((*before, *after)):
        old, new = before.get(name), after.get(name)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            yield from differences(old, new, f"{at}{name}.")
        elif old != new:
            yield f"{at}{name}", old, new
