"""Regions as a mask in two colours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from service.inspection.regions import Region


@dataclass(frozen=True)
class AnomalyMask:
    """The mask of an image.

    Attributes:
        png: PNG with 8 bits per channel, RGB.
        share: Share of its pixels that belong to a region, 0 to 1.
    """

    png: bytes
    share: float


def draw_mask(regions: Sequence[Region], image_wh: tuple[int, int], colour: str) -> AnomalyMask:
    """Draw regions, filled, on white.

    Args:
        regions: The regions; a region is drawn as its polygon.
        image_wh: Width and height of the image, in pixels.
        colour: Colour of the regions, `#RRGGBB`; not white.
    """
    width, height = image_wh
    red, green, blue = bytes.fromhex(colour.removeprefix("#"))
    bgr = np.full((height, width, 3), 255, np.uint8)
    for region in regions:
        cv2.fillPoly(bgr, [np.array(region.polygon, np.int32)], (blue, green, red))
    marked = np.count_nonzero(cv2.inRange(bgr, np.array((blue, green, red)), np.array((blue, green, red))))
    done, data = cv2.imencode(".png", bgr)
    if not done:
        raise RuntimeError("OpenCV could not encode image/png")
    return AnomalyMask(data.tobytes(), int(marked) / (width * height))
