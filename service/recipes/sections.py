"""The sections of a recipe beside its thresholds, with the rules that their values must keep.

The fields are declared in `service.schemas.sections`. Here stands what depends on several of them or on what this
service can read, and what a section means for an inspection.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Annotated, Any, Self

import numpy as np
import numpy.typing as npt
from pydantic import AfterValidator, Field, field_validator, model_validator

from service.errors import InvalidRequest
from service.inspection.decoding.pixel_formats import PIXEL_FORMATS, PixelRules, RawLayout
from service.inspection.errors import PixelMismatch, UnknownPixelFormat
from service.inspection.quality import InvalidReason
from service.inspection.quality import QualityLimits as Limits
from service.schemas import sections
from service.schemas.sections import Keep as Keep
from service.schemas.sections import Point, RegionSetting


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


Polygons = Annotated[tuple[Annotated[sections.Polygon, AfterValidator(_require_simple)], ...], Field(max_length=64)]


class HeatmapSetting(sections.HeatmapSetting):
    """The ends of the heatmap's scale, in the right order."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low is not None and self.high is not None and self.low >= self.high:
            raise ValueError(f"heatmap.low {self.low:g} is not below heatmap.high {self.high:g}")
        return self


class PixelSetting(sections.PixelSetting):
    """What the camera sends, in a format that this service reads."""

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
            None where the sender states nothing at all: then the image is an encoded one.

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
                "or declare them in the recipe under `pixels`. An encoded image is sent without any of these headers."
            )
        return RawLayout(pixel_format, width, height, stride)

    def rules(self, layout: RawLayout | None) -> PixelRules:
        """How an image of this camera is read."""
        return PixelRules(layout, self.depth, self.black_level or 0, self.white_level)


class QualityLimits(sections.QualityLimits):
    """When an image is not worth a verdict."""

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


class RecipeParts(sections.RecipeParts):
    """Everything in a recipe that is not a threshold."""

    roi: Polygons = ()
    ignore: Polygons = ()
    regions: RegionSetting = RegionSetting()
    heatmap: HeatmapSetting = HeatmapSetting()
    pixels: PixelSetting = PixelSetting()
    quality: QualityLimits = QualityLimits()


def levels(parts: RecipeParts) -> dict[str, Any]:
    """The values that are levels on one bundle's scale of scores, maps or prepared images, and mean nothing on
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
