"""Patches of images around a cell: the spot that is explained, and the normal cell that is nearest to it."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from service.bundle.arrays import UInt8Image
from service.inspection.explanation.explainer import WHOLE, Box
from service.inspection.heatmap import encode

CONTEXT_CELLS = 5
"""Sides of a patch, in cells: the cell in its surroundings."""
MAX_SIDE = 192
"""Longest side of a patch in pixels. Smaller patches are not enlarged."""
MEDIA_TYPE = "image/jpeg"
_QUALITY = 85


@dataclass(frozen=True)
class Patch:
    """A part of an image around a cell.

    Attributes:
        content: The patch as a JPEG file.
        size_wh: Its width and height in pixels.
        cell: The place of the cell in the patch.
    """

    content: bytes
    size_wh: tuple[int, int]
    cell: Box


def cut_patch(rgb: UInt8Image, cell: Box, view: Box = WHOLE) -> Patch:
    """Cut a cell with its surroundings out of an image.

    Patches of the same cell size have the same scale, so that two of them can be compared side by side.

    Args:
        rgb: uint8 [H, W, 3].
        cell: The cell, relative to the image of which `rgb` is a view.
        view: The place of `rgb` in that image.
    """
    height, width = rgb.shape[:2]
    sides = width / view.width, height / view.height
    left, right = _span(cell.left - view.left, cell.width, sides[0], width)
    top, bottom = _span(cell.top - view.top, cell.height, sides[1], height)
    place = Box(
        ((cell.left - view.left) * sides[0] - left) / (right - left),
        ((cell.top - view.top) * sides[1] - top) / (bottom - top),
        cell.width * sides[0] / (right - left),
        cell.height * sides[1] / (bottom - top),
    )
    part = rgb[top:bottom, left:right]
    scale = min(1.0, MAX_SIDE / max(part.shape[:2]))
    size = max(1, round(part.shape[1] * scale)), max(1, round(part.shape[0] * scale))
    if scale < 1:
        part = np.asarray(cv2.resize(part, size, interpolation=cv2.INTER_AREA), np.uint8)
    return Patch(encode(np.ascontiguousarray(part), MEDIA_TYPE, _QUALITY), size, place)


def _span(start: float, length: float, side: float, pixels: int) -> tuple[int, int]:
    """Return the first pixel of a patch along one side, and the one after its last.

    Args:
        start: Start of the cell, relative to the side.
        length: Length of the cell, relative to the side.
        side: Length of the side in pixels.
        pixels: Pixels that there are along this side. A patch at the border is moved inwards.
    """
    wanted = min(pixels, max(1, round(CONTEXT_CELLS * length * side)))
    first = round((start + length / 2) * side - wanted / 2)
    first = min(max(first, 0), pixels - wanted)
    return first, first + wanted
