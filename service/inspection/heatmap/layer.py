"""A heatmap without its image: a transparent layer, which a page blends over the image."""

from __future__ import annotations

import struct
import zlib

import numpy as np

from service.bundle.arrays import Float32Map, UInt8Image
from service.inspection.area import BoolMask
from service.inspection.heatmap.colormap import DEFAULT_COLORMAP, lookup_table
from service.inspection.heatmap.overlay import (
    DIMMED,
    HATCH_GRAY,
    contour_of,
    hatching,
    line_thickness,
    opacities,
    shades_of,
)
from service.inspection.heatmap.scale import HeatmapScale

LAYER_MEDIA_TYPE = "image/png"
# The first steps of the colour map have an opacity that is rounded to zero. All of them are written as the first one,
# so that these entries of the palette are free.
_DIM, _HATCH, _BLACK, _WHITE = 1, 2, 3, 4
_COMPRESSION = 1


def draw_layer(
    anomaly_map: Float32Map,
    scale: HeatmapScale,
    size_wh: tuple[int, int],
    judged: BoolMask | None = None,
    colormap: str = DEFAULT_COLORMAP,
    fail_threshold: float | None = None,
) -> bytes:
    """Draw the heatmap alone, as a PNG with a palette and transparency.

    It is transparent at the median of good maps and opaque at the fail threshold and above. Blended over the image with
    an opacity of 0.6, its colours are those of `render`. It has the contour of the fail threshold, and the dimming and
    hatching of areas that were not judged, but no regions.

    A palette has one byte per pixel and keeps every colour, so it is written many times faster than RGBA or WebP.

    Args:
        anomaly_map: float32 [h, w], times the score gain.
        scale: The product's scale.
        size_wh: Width and height of the layer, in pixels.
        judged: bool [h, w], the cells that were judged; None means all.
        colormap: One of `COLORMAPS`.
        fail_threshold: Map value whose contour line is drawn; None uses `scale.high`.
    """
    alpha = np.rint(opacities() * 255).astype(np.uint8)
    palette = np.concatenate([lookup_table(colormap), alpha[:, None]], axis=1)
    clear = int(np.count_nonzero(alpha == 0))
    assert clear > _WHITE, "the palette has no free entries"
    thickness = line_thickness(*size_wh)
    shades, seen = shades_of(anomaly_map, scale, size_wh, judged)
    contour = contour_of(shades, scale, fail_threshold, thickness)
    shades[shades < clear] = 0
    palette[_DIM] = (0, 0, 0, round(255 * (1 - DIMMED)))
    palette[_HATCH] = (HATCH_GRAY, HATCH_GRAY, HATCH_GRAY, 255)
    palette[_BLACK], palette[_WHITE] = (0, 0, 0, 255), (255, 255, 255, 255)
    if seen is not None:
        shades[~seen] = _DIM
        shades[hatching(seen, 0, thickness)] = _HATCH
    if contour is not None:
        shades[contour[0]], shades[contour[1]] = _BLACK, _WHITE
    return _encode(shades, palette)


def empty_layer(size_wh: tuple[int, int]) -> bytes:
    """Return a transparent layer, for an image that was not judged."""
    width, height = size_wh
    return _encode(np.zeros((height, width), np.uint8), np.zeros((1, 4), np.uint8))


def _encode(indices: UInt8Image, palette: UInt8Image) -> bytes:
    """Encode a PNG with a palette (PNG specification, third edition, colour type 3).

    Args:
        indices: uint8 [H, W], rows of the palette.
        palette: uint8 [n, 4], RGBA, at most 256 rows.
    """
    height, width = indices.shape
    rows = np.zeros((height, width + 1), np.uint8)  # each row begins with its filter; none suits a palette best
    rows[:, 1:] = indices
    header = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        (
            _chunk(b"IHDR", header),
            _chunk(b"PLTE", palette[:, :3].tobytes()),
            _chunk(b"tRNS", palette[:, 3].tobytes()),
            _chunk(b"IDAT", zlib.compress(rows.data, _COMPRESSION)),
            _chunk(b"IEND", b""),
        )
    )


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
