"""Colour maps of heatmaps."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import cv2
import numpy as np

from service.bundle.arrays import UInt8Image
from service.inspection.heatmap.scale import FULL_SCALE

STEPS = 256

# Positions on the heatmap's scale, from 0 to 1.5, and their colours (RGB). Our own: cyan below the fail threshold,
# violet above it. No part is likely to have these hues, and both remain different from brown, red and gray with
# deuteranopia and protanopia, because they differ in blue.
_CYAN_VIOLET = (
    (0.0, (0, 120, 200)),
    (0.95, (90, 225, 255)),
    (1.0, (190, 110, 255)),
    (FULL_SCALE, (225, 0, 255)),
)

_OPENCV: Mapping[str, int] = {
    "turbo": cv2.COLORMAP_TURBO,
    "viridis": cv2.COLORMAP_VIRIDIS,
    "cividis": cv2.COLORMAP_CIVIDIS,
    "inferno": cv2.COLORMAP_INFERNO,
}

DEFAULT_COLORMAP = "cyan-violet"
COLORMAPS = (DEFAULT_COLORMAP, *_OPENCV)
"""Names of the colour maps."""


@cache
def lookup_table(name: str) -> UInt8Image:
    """Return a colour map as a table.

    Args:
        name: One of `COLORMAPS`.

    Returns:
        uint8 [256, 3], RGB, from 0 to 1.5 on the heatmap's scale.

    Raises:
        KeyError: There is no such colour map.
    """
    if name == DEFAULT_COLORMAP:
        positions = np.linspace(0, FULL_SCALE, STEPS)
        stops = [stop for stop, _ in _CYAN_VIOLET]
        colours = np.array([colour for _, colour in _CYAN_VIOLET])
        channels = [np.interp(positions, stops, colours[:, channel]) for channel in range(3)]
        return np.asarray(np.rint(np.stack(channels, axis=1)), np.uint8)
    ramp = np.arange(STEPS, dtype=np.uint8)[:, None]
    return np.asarray(cv2.applyColorMap(ramp, _OPENCV[name])[:, 0, ::-1], np.uint8)
