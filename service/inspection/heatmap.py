"""Heatmaps on a scale that is fixed per product, so that equal colours mean equal map values on every part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from service.bundle.arrays import Float32Map, UInt8Image
from service.inspection.area import BoolMask
from service.inspection.regions import Region

HEATMAP_MEDIA_TYPES = {"image/png": ".png", "image/jpeg": ".jpg", "image/webp": ".webp"}
# Longest side that the encoder of a format accepts, in pixels. PNG has no relevant limit.
_LONGEST_SIDE = {"image/jpeg": 65_500, "image/webp": 16_383}
_STRIP_ROWS = 128
# End of the scale, as a multiple of the range from `low` to `high`.
FULL_RED = 1.5
_OUTLINE_RGB = (255, 255, 255)
# Brightness factor of pixels that are not judged, and the gray level of their hatching, which is visible on black as
# well.
_DIMMED = 0.4
_HATCH_GRAY = 128


@dataclass(frozen=True)
class HeatmapScale:
    """The scale of a heatmap: `low` is the median of good maps (no colour), `high` the fail threshold.

    Colours range from blue to yellow below `high` and from orange to red above it. A score is a mean of the highest
    cells, so single cells of a good part may be slightly above the threshold; full red therefore begins at 1.5 times
    the range.

    The scale never depends on the image that is shown: normalising each map by its own maximum would colour good parts
    red.
    """

    low: float
    high: float

    def normalise(self, anomaly_map: Float32Map) -> Float32Map:
        """Map values to [0, 1.5]: 0 at or below `low`, 1 at `high`, 1.5 at the end of the scale and beyond."""
        span = max(self.high - self.low, 1e-12)
        return np.asarray(np.clip((anomaly_map - self.low) / span, 0, FULL_RED), np.float32)


def render(
    rgb: UInt8Image,
    anomaly_map: Float32Map,
    scale: HeatmapScale,
    regions: Sequence[Region] = (),
    judged: BoolMask | None = None,
    opacity: float = 0.55,
) -> UInt8Image:
    """Blend the anomaly map over the image and outline the regions.

    Args:
        rgb: uint8 [H, W, 3], the image as it was sent.
        anomaly_map: float32 [h, w], times the score gain.
        scale: The product's scale.
        regions: Outlined in white with a black border, so that they are visible on any image.
        judged: bool [h, w], the cells that were judged; None means all. Other cells are dimmed and hatched, without
            colour.
        opacity: Opacity of the heatmap at the fail threshold and above, in [0, 1].

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
    steps = (scale.normalise(anomaly_map) * (255 / FULL_RED)).astype(np.uint8)
    shades = cv2.resize(steps, (width, height), interpolation=cv2.INTER_LINEAR)
    overlay = np.empty_like(rgb)
    # Blending needs about fifty bytes per pixel, which would be gigabytes for a large image. So it is done in strips.
    for top in range(0, height, _STRIP_ROWS):
        rows = slice(top, top + _STRIP_ROWS)
        colours = cv2.cvtColor(cv2.applyColorMap(shades[rows], cv2.COLORMAP_TURBO), cv2.COLOR_BGR2RGB)
        weight = np.minimum(shades[rows] * np.float32(opacity * FULL_RED / 255), np.float32(opacity))[..., None]
        overlay[rows] = np.rint(rgb[rows] * (1 - weight) + colours * weight)
        if seen is not None:
            _dim(overlay[rows], rgb[rows], seen[rows], top, thickness)
    for region in regions:
        outline = np.array(region.polygon, np.int32)
        cv2.polylines(overlay, [outline], True, (0, 0, 0), thickness + 2, cv2.LINE_AA)
        cv2.polylines(overlay, [outline], True, _OUTLINE_RGB, thickness, cv2.LINE_AA)
    return overlay


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


def encode(rgb: UInt8Image, media_type: str, quality: int = 90) -> bytes:
    """Encode an image.

    Args:
        rgb: uint8 [H, W, 3], RGB.
        media_type: One of `HEATMAP_MEDIA_TYPES`.
        quality: Quality of JPEG and WebP, 1 to 100.

    Returns:
        The encoded image, scaled down where a side is longer than the format allows.
    """
    longest = max(rgb.shape[:2])
    if (allowed := _LONGEST_SIDE.get(media_type, longest)) < longest:
        height, width = (max(1, side * allowed // longest) for side in rgb.shape[:2])
        rgb = np.asarray(cv2.resize(rgb, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
    quality_flag = {"image/jpeg": cv2.IMWRITE_JPEG_QUALITY, "image/webp": cv2.IMWRITE_WEBP_QUALITY}.get(media_type)
    flags = [] if quality_flag is None else [quality_flag, quality]
    bgr = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)
    done, data = cv2.imencode(HEATMAP_MEDIA_TYPES[media_type], bgr, flags)
    if not done:
        raise RuntimeError(f"OpenCV could not encode {media_type}")
    return data.tobytes()
