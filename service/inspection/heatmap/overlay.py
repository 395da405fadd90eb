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
_DIMMED = 0.4
_HATCH_GRAY = 128
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
    thickness = max(1, round(max(height, width) / 400))
    seen = None
    if judged is not None:
        # Cells that are not judged have no colour, and interpolation must not spread their values into judged cells.
        anomaly_map = np.where(judged, anomaly_map, np.float32(scale.low))
        seen = cv2.resize(judged.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST) > 0
    steps = (scale.normalise(anomaly_map) * _STEPS_PER_UNIT).astype(np.uint8)
    shades = cv2.resize(steps, (width, height), interpolation=cv2.INTER_LINEAR)
    colours = lookup_table(colormap)[:, None]
    weights = np.minimum(np.arange(STEPS, dtype=np.float32) / np.float32(_STEPS_PER_UNIT), 1) ** 2 * np.float32(opacity)
    overlay = np.empty_like(rgb)
    # Blending needs about fifty bytes per pixel, which would be gigabytes for a large image. So it is done in strips.
    for top in range(0, height, _STRIP_ROWS):
        rows = slice(top, top + _STRIP_ROWS)
        weight = cv2.LUT(shades[rows], weights)[..., None]
        overlay[rows] = np.rint(rgb[rows] * (1 - weight) + cv2.applyColorMap(shades[rows], colours) * weight)
        if seen is not None:
            _dim(overlay[rows], rgb[rows], seen[rows], top, thickness)
    contour_step = math.ceil(scale.position(scale.high if fail_threshold is None else fail_threshold) * _STEPS_PER_UNIT)
    if 0 < contour_step < STEPS:
        _contour(overlay, (shades >= contour_step).astype(np.uint8), max(1, thickness // 2))
    for region in regions:
        outline = np.array(region.polygon, np.int32)
        cv2.polylines(overlay, [outline], True, _BLACK, thickness + 2, cv2.LINE_AA)
        cv2.polylines(overlay, [outline], True, _WHITE, thickness, cv2.LINE_AA)
    return overlay


def _contour(overlay: UInt8Image, above: UInt8Image, thickness: int) -> None:
    """Draw a white line with a black border around the pixels above a threshold, in place.

    The line lies outside of them, so that it does not cover a small defect.

    Args:
        overlay: uint8 [H, W, 3].
        above: uint8 [H, W], 1 for the pixels above the threshold.
        thickness: Thickness of the white line, in pixels.
    """
    line = cv2.dilate(above, np.ones((2 * thickness + 1, 2 * thickness + 1), np.uint8))
    border = cv2.dilate(line, np.ones((3, 3), np.uint8))
    overlay[border > line] = _BLACK
    overlay[line > above] = _WHITE


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
    overlay[hidden] = rgb[hidden] * _DIMMED
    rows, columns = np.ogrid[top : top + overlay.shape[0], : overlay.shape[1]]
    overlay[hidden & ((rows + columns) % (10 * thickness) < thickness)] = _HATCH_GRAY
