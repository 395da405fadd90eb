"""The overlay of an anomaly map over its image."""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np

from service.bundle.arrays import Float32Map, UInt8Image
from service.inspection.area import BoolMask
from service.inspection.heatmap.colormap import DEFAULT_COLORMAP, STEPS, lookup_table
from service.inspection.heatmap.scale import FULL_SCALE, HeatmapScale
from service.inspection.regions import Region

_STRIP_ROWS = 128
_WHITE, _BLACK = (255, 255, 255), (0, 0, 0)
# Brightness factor of pixels that are not judged, and the gray level of their hatching, which is visible on black as
# well.
DIMMED = 0.4
HATCH_GRAY = 128
_STEPS_PER_UNIT = (STEPS - 1) / FULL_SCALE


def render(
    rgb: UInt8Image,
    anomaly_map: Float32Map,
    scale: HeatmapScale,
    regions: Sequence[Region] = (),
    judged: BoolMask | None = None,
    opacity: float = 0.6,
    colormap: str = DEFAULT_COLORMAP,
    fail_threshold: float | None = None,
) -> UInt8Image:
    """Blend the anomaly map over the image, and draw the regions and the contour of the fail threshold.

    The opacity grows with the square of the map value, so that the ordinary variation of good parts hardly shows.

    Args:
        rgb: uint8 [H, W, 3], the image as it was sent.
        anomaly_map: float32 [h, w], times the score gain.
        scale: The product's scale.
        regions: Outlined in white with a black border, so that they are visible on any image.
        judged: bool [h, w], the cells that were judged; None means all. Other cells are dimmed and hatched, without
            colour.
        opacity: Opacity of the heatmap at the fail threshold and above, in [0, 1].
        colormap: One of `COLORMAPS`.
        fail_threshold: Map value whose contour line is drawn, thinner than the regions; None uses `scale.high`. The
            line marks what is above the threshold without relying on colour.

    Returns:
        uint8 [H, W, 3], RGB. Judged pixels with a map value of at most `low` are unchanged.
    """
    height, width = rgb.shape[:2]
    thickness = line_thickness(width, height)
    shades, seen = shades_of(anomaly_map, scale, (width, height), judged)
    colours = lookup_table(colormap)[:, None]
    weights = opacities() * np.float32(opacity)
    overlay = np.empty_like(rgb)
    # Blending needs about fifty bytes per pixel, which would be gigabytes for a large image. So it is done in strips.
    for top in range(0, height, _STRIP_ROWS):
        rows = slice(top, top + _STRIP_ROWS)
        weight = cv2.LUT(shades[rows], weights)[..., None]
        overlay[rows] = np.rint(rgb[rows] * (1 - weight) + cv2.applyColorMap(shades[rows], colours) * weight)
        if seen is not None:
            _dim(overlay[rows], rgb[rows], seen[rows], top, thickness)
    contour = contour_of(shades, scale, fail_threshold, thickness)
    if contour is not None:
        border, line = contour
        overlay[border] = _BLACK
        overlay[line] = _WHITE
    for region in regions:
        outline = np.array(region.polygon, np.int32)
        cv2.polylines(overlay, [outline], True, _BLACK, thickness + 2, cv2.LINE_AA)
        cv2.polylines(overlay, [outline], True, _WHITE, thickness, cv2.LINE_AA)
    return overlay


def line_thickness(width: int, height: int) -> int:
    """Return the thickness of lines in a heatmap of this size, in pixels."""
    return max(1, round(max(height, width) / 400))


def shades_of(
    anomaly_map: Float32Map, scale: HeatmapScale, size_wh: tuple[int, int], judged: BoolMask | None
) -> tuple[UInt8Image, BoolMask | None]:
    """Return the steps of the colour map for the pixels of a heatmap.

    Args:
        anomaly_map: float32 [h, w], times the score gain.
        scale: The product's scale.
        size_wh: Width and height of the heatmap, in pixels.
        judged: bool [h, w], the cells that were judged; None means all.

    Returns:
        uint8 [H, W], rows of `lookup_table`; and bool [H, W], the pixels that were judged, None if all were.
    """
    seen = None
    if judged is not None:
        # Cells that are not judged have no colour, and interpolation must not spread their values into judged cells.
        anomaly_map = np.where(judged, anomaly_map, np.float32(scale.low))
        seen = cv2.resize(judged.astype(np.uint8), size_wh, interpolation=cv2.INTER_NEAREST) > 0
    steps = (scale.normalise(anomaly_map) * _STEPS_PER_UNIT).astype(np.uint8)
    return np.asarray(cv2.resize(steps, size_wh, interpolation=cv2.INTER_LINEAR), np.uint8), seen


def opacities() -> Float32Map:
    """Return the relative opacity of each step of the colour map: float32 [256], from 0 to 1 at the fail threshold."""
    levels = np.minimum(np.arange(STEPS, dtype=np.float32) / np.float32(_STEPS_PER_UNIT), 1)
    return np.asarray(levels**2, np.float32)


def contour_of(
    shades: UInt8Image, scale: HeatmapScale, fail_threshold: float | None, thickness: int
) -> tuple[BoolMask, BoolMask] | None:
    """Return the contour of the pixels above a threshold.

    It lies outside of them, so that it does not cover a small defect.

    Args:
        shades: uint8 [H, W], as `shades_of` returns them.
        scale: The product's scale.
        fail_threshold: Map value of the contour; None uses `scale.high`.
        thickness: Thickness of the lines of the heatmap, in pixels. The contour is thinner.

    Returns:
        bool [H, W] twice: the pixels of the black border and those of the white line. None if the threshold lies
        outside the scale.
    """
    step = math.ceil(scale.position(scale.high if fail_threshold is None else fail_threshold) * _STEPS_PER_UNIT)
    if not 0 < step < STEPS:
        return None
    above = (shades >= step).astype(np.uint8)
    width = 2 * max(1, thickness // 2) + 1
    line = cv2.dilate(above, np.ones((width, width), np.uint8))
    border = cv2.dilate(line, np.ones((3, 3), np.uint8))
    return border > line, line > above


def hatching(seen: BoolMask, top: int, thickness: int) -> BoolMask:
    """Return the pixels of the hatching of areas that were not judged.

    Args:
        seen: bool [H, W], the pixels that were judged; rows of a heatmap.
        top: First row, so that lines continue from strip to strip.
        thickness: Thickness of a line, in pixels.
    """
    rows, columns = np.ogrid[top : top + seen.shape[0], : seen.shape[1]]
    return np.asarray(~seen & ((rows + columns) % (10 * thickness) < thickness))


def _dim(overlay: UInt8Image, rgb: UInt8Image, seen: BoolMask, top: int, thickness: int) -> None:
    """Dim and hatch the pixels that were not judged, in place.

    Args:
        overlay: uint8 [H, W, 3], a strip of the heatmap.
        rgb: uint8 [H, W, 3], the same strip of the image.
        seen: bool [H, W], the pixels that were judged.
        top: First row of the strip, so that lines continue from strip to strip.
        thickness: Thickness of a line, in pixels.
    """
    hidden = ~seen
    overlay[hidden] = rgb[hidden] * DIMMED
    overlay[hatching(seen, top, thickness)] = HATCH_GRAY
