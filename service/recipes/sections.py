"""The sections of a recipe beside its thresholds, and their validation.

The fields are declared in `service.schemas.sections`. This module adds the rules that depend on several fields or on
the formats that the service supports, and the conversion of sections into options of the decision core.
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
from service.inspection.quality import QualityLimits as Limits
from service.schemas import sections
from service.schemas.sections import DecisionName, InvalidReason, Point, RegionSetting
from service.schemas.sections import Keep as Keep
from service.schemas.violations import violated


def _require_simple(polygon: tuple[Point, ...]) -> tuple[Point, ...]:
    """Refuse a polygon that intersects itself or has almost no area."""
    points = np.array(polygon, np.float64)
    edges = np.roll(points, -1, axis=0) - points
    if (repeated := np.flatnonzero((edges == 0).all(axis=1))).size:
        x, y = polygon[int(repeated[0])]
        raise violated("point_repeated", x=x, y=y)
    if (crossing := _crossing(points, edges)) is not None:
        first, second = crossing
        raise violated("edges_intersect", first=first + 1, second=second + 1)
    xs, ys = points.T
    area = abs(float(np.dot(xs, np.roll(ys, -1)) - np.dot(ys, np.roll(xs, -1)))) / 2
    if area < 1:
        raise violated("polygon_too_small", area=area)
    return polygon


def _crossing(points: npt.NDArray[np.float64], edges: npt.NDArray[np.float64]) -> tuple[int, int] | None:
    """Return two edges that share a point other than the corner between them, or None if there are none."""
    count = len(points)
    ends = points + edges

    def sides(of: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Return on which side of edge i point j lies, [i, j]: the sign of a cross product."""
        apart = of[None, :, :] - points[:, None, :]
        return np.sign(edges[:, None, 0] * apart[..., 1] - edges[:, None, 1] * apart[..., 0])

    low, high = np.minimum(points, ends), np.maximum(points, ends)
    boxes_meet = ((low[:, None] <= high[None]) & (low[None] <= high[:, None])).all(axis=-1)
    divided = sides(points) * sides(ends) <= 0  # the ends of j lie on both sides of i, or on i
    meet = boxes_meet & divided & divided.T
    number = np.arange(count)
    neighbours = (number[None] - number[:, None]) % count
    meet &= (neighbours > 1) & (neighbours < count - 1)
    # Neighbouring edges always share their corner. They must not overlap beyond it.
    following = np.roll(edges, -1, axis=0)
    cross = edges[:, 0] * following[:, 1] - edges[:, 1] * following[:, 0]
    back = (cross == 0) & ((edges * following).sum(axis=1) < 0)
    meet[number[back], (number[back] + 1) % count] = True
    found = np.argwhere(meet)
    return None if not found.size else (int(found[0].min()), int(found[0].max()))


Polygons = Annotated[tuple[Annotated[sections.Polygon, AfterValidator(_require_simple)], ...], Field(max_length=64)]


class HeatmapSetting(sections.HeatmapSetting):
    """The limits of the heatmap's scale, `low` below `high`."""

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        if self.low is not None and self.high is not None and self.low >= self.high:
            raise violated("heatmap_order", low=self.low, high=self.high)
        return self


class PixelSetting(sections.PixelSetting):
    """Declaration of the camera's images, in a pixel format that the service supports."""

    @field_validator("pixel_format")
    @classmethod
    def _check_pixel_format(cls, name: str | None) -> str | None:
        if name is not None and name not in PIXEL_FORMATS:
            raise ValueError(UnknownPixelFormat(name, PIXEL_FORMATS).detail)
        return name

    @model_validator(mode="after")
    def _check_levels(self) -> Self:
        depth = self.depth
        if depth is not None and self.pixel_format is not None and depth > PIXEL_FORMATS[self.pixel_format].bits:
            raise violated("bit_depth", depth=depth, pixel_format=self.pixel_format)
        if depth is not None and max(self.white_level or 0, (self.black_level or 0) + 1) >= 2**depth:
            raise violated("levels_too_large", depth=depth)
        if self.white_level is not None and (self.black_level or 0) >= self.white_level:
            raise violated("level_order", black=self.black_level or 0, white=self.white_level)
        return self

    @property
    def depth(self) -> int | None:
        """Return the significant bits of a sample, from `bit_depth` or else from `pixel_format`."""
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
        """Return the layout of a camera buffer: the sender's values, completed by those declared here.

        Returns:
            None if the sender states no value at all: then the image is an encoded one.

        Raises:
            UnknownPixelFormat: The stated format is not supported.
            InvalidRequest: A value is stated neither by the sender nor here, or the layout is not possible.
            PixelMismatch: The stated format differs from the declared one.
        """
        if (pixel_format, width, height, stride) == (None, None, None, None):
            return None
        if None not in (pixel_format, self.pixel_format) and pixel_format != self.pixel_format:
            raise PixelMismatch(f"it was sent as {pixel_format}, the recipe declares {self.pixel_format}")
        pixel_format, width, height = pixel_format or self.pixel_format, width or self.width, height or self.height
        if pixel_format is None or width is None or height is None:
            raise InvalidRequest(
                "A camera buffer needs a pixel format, width and height. Send X-Pixel-Format, X-Width and X-Height, or "
                "declare them in the recipe under `pixels`. Send an encoded image without any of these headers."
            )
        return RawLayout(pixel_format, width, height, stride)

    def rules(self, layout: RawLayout | None) -> PixelRules:
        """Return how an image of this camera is decoded."""
        return PixelRules(layout, self.depth, self.black_level or 0, self.white_level, self.tolerate_stray_bytes)


class QualityLimits(sections.QualityLimits):
    """Limits of the quality check that replace those of the bundle."""

    def combine(self, bundle: Limits, pixels: PixelSetting) -> Limits:
        """Return the limits in force: those set here, otherwise the bundle's, without checks that are switched off.

        Args:
            bundle: Limits from the calibration images.
            pixels: Declares the expected image size, which replaces the limits of the size from the bundle: a declared
                width replaces the smallest width, a declared height the smallest height, and both together the aspect
                ratio as well.
        """
        own = {name: getattr(self, name) for name in _MEASURED}
        limits = replace(bundle, **{name: value for name, value in own.items() if value is not None})
        declared = [name for name in ("width", "height") if getattr(pixels, name) is not None]
        limits = replace(limits, width=pixels.width, height=pixels.height, **{f"min_{name}": None for name in declared})
        if len(declared) == 2:
            limits = replace(limits, min_aspect=None, max_aspect=None)
        return replace(limits, **{name: None for reason in self.off for name in _LIMITS_OF[reason]})


_LIMITS_OF: Mapping[InvalidReason, tuple[str, ...]] = {
    InvalidReason.UNDER_EXPOSED: ("min_brightness", "max_dark_share"),
    InvalidReason.OVER_EXPOSED: ("max_brightness", "max_bright_share"),
    InvalidReason.BLURRED: ("min_sharpness",),
    InvalidReason.EMPTY_FRAME: ("min_contrast",),
    InvalidReason.FROZEN_FRAME: (),
    InvalidReason.WRONG_SIZE: ("width", "height", "min_width", "min_height", "min_aspect", "max_aspect"),
}
_MEASURED = (
    "min_brightness", "max_brightness", "max_dark_share", "max_bright_share", "min_sharpness", "min_contrast",
)  # fmt: skip


class StorageLimit(sections.StorageLimit):
    """Largest size of the images and maps of a product. Each decision is named at most once."""

    @field_validator("keep_longer")
    @classmethod
    def _check_decisions(cls, decisions: tuple[DecisionName, ...]) -> tuple[DecisionName, ...]:
        if len(set(decisions)) < len(decisions):
            raise violated("decision_twice")
        return decisions

    @property
    def removal_order(self) -> tuple[DecisionName, ...]:
        """Return all decisions in the order in which their images are removed."""
        others = tuple(name for name in _DECISIONS if name not in self.keep_longer)
        return (*others, *reversed(self.keep_longer))


_DECISIONS: tuple[DecisionName, ...] = ("pass", "invalid", "review", "fail")
RETENTION_SECTIONS = ("retention", "storage")
"""The sections of a recipe that state which images and anomaly maps are kept."""


class RecipeParts(sections.RecipeParts):
    """Every section of a recipe except the thresholds."""

    roi: Polygons = ()
    ignore: Polygons = ()
    regions: RegionSetting = RegionSetting()
    heatmap: HeatmapSetting = HeatmapSetting()
    pixels: PixelSetting = PixelSetting()
    quality: QualityLimits = QualityLimits()
    storage: StorageLimit = StorageLimit()


def bundle_scale_values(parts: RecipeParts) -> dict[str, Any]:
    """Return the values that refer to one bundle's scores, maps or input size and do not apply to another."""
    return {
        "heatmap": parts.heatmap.model_dump(),
        "regions": {"min_peak": parts.regions.min_peak},
        "quality": {"min_sharpness": parts.quality.min_sharpness},
    }


def merge(current: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """Apply a change to the values of a recipe, as JSON Merge Patch does (RFC 7396).

    Args:
        current: The values of a recipe.
        change: The values to change. Values that it does not name are kept, at every depth. None resets a value to its
            default. A list replaces a list.
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
    """Yield the differences of two recipes: dotted path, old value, new value.

    Lists count as values: an ROI with one corner moved is another ROI.
    """
    for name in dict.fromkeys((*before, *after)):
        old, new = before.get(name), after.get(name)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            yield from differences(old, new, f"{at}{name}.")
        elif old != new:
            yield f"{at}{name}", old, new
