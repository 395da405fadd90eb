"""Resize an image to the input geometry of a graph."""

from __future__ import annotations

import cv2
import numpy as np

from service.bundle.arrays import UInt8Image
from service.bundle.manifest import InputGeometry


def prepare(rgb: UInt8Image, geometry: InputGeometry) -> UInt8Image:
    """Stretch an image to the input size of the graph.

    Args:
        rgb: uint8 [H, W, 3], RGB.
        geometry: The graph's input.

    Returns:
        uint8 [geometry.height, geometry.width, 3], contiguous.
    """
    return resize(rgb, (geometry.height, geometry.width))


def resize(rgb: UInt8Image, size: tuple[int, int]) -> UInt8Image:
    """Resize an image: average areas where it shrinks, interpolate linearly where it grows.

    Args:
        rgb: uint8 [H, W, 3], RGB.
        size: Height and width of the result.

    Returns:
        uint8 [*size, 3], contiguous. The image itself if it already has that size.
    """
    if rgb.shape[:2] == size:
        return rgb
    # OpenCV has vector instructions only for averaging at a ratio of 1/2. Repeated halving gives the same average in a
    # quarter of the time, up to the rounding of each step.
    while rgb.shape[0] % 2 == rgb.shape[1] % 2 == 0 and rgb.shape[0] >= 2 * size[0] and rgb.shape[1] >= 2 * size[1]:
        halved = cv2.resize(rgb, (rgb.shape[1] // 2, rgb.shape[0] // 2), interpolation=cv2.INTER_AREA)
        rgb = np.asarray(halved, np.uint8)
    if rgb.shape[:2] == size:
        return rgb
    shrinks = rgb.shape[0] >= size[0] and rgb.shape[1] >= size[1]
    resized = cv2.resize(rgb, size[::-1], interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return np.asarray(resized, np.uint8)
