"""Resize an image to the input geometry of a graph."""

from __future__ import annotations

import cv2
import numpy as np

from service.bundle.manifest import InputGeometry
from service.inspection.decoding.decoder import UInt8Image


def prepare(rgb: UInt8Image, geometry: InputGeometry) -> UInt8Image:
    """Stretch an image to the size that the graph takes.

    Args:
        rgb: uint8 [H, W, 3], RGB.
        geometry: The graph's input.

    Returns:
        uint8 [geometry.height, geometry.width, 3], contiguous.
    """
    return resize(rgb, (geometry.height, geometry.width))


def resize(rgb: UInt8Image, size: tuple[int, int]) -> UInt8Image:
    """Stretch an image: averages areas where it shrinks, interpolates linearly where it grows.

    Args:
        rgb: uint8 [H, W, 3], RGB.
        size: Height and width to bring it to.

    Returns:
        uint8 [*size, 3], contiguous; the image itself where it has that size.
    """
    if rgb.shape[:2] == size:
        return rgb
    # Halving is the one ratio that OpenCV averages with vector instructions; in steps of it the same average costs
    # a quarter, and differs by no more than the rounding of each step.
    while rgb.shape[0] % 2 == rgb.shape[1] % 2 == 0 and rgb.shape[0] >= 2 * size[0] and rgb.shape[1] >= 2 * size[1]:
        halved = cv2.resize(rgb, (rgb.shape[1] // 2, rgb.shape[0] // 2), interpolation=cv2.INTER_AREA)
        rgb = np.asarray(halved, np.uint8)
    if rgb.shape[:2] == size:
        return rgb
    shrinks = rgb.shape[0] >= size[0] and rgb.shape[1] >= size[1]
    resized = cv2.resize(rgb, size[::-1], interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return np.asarray(resized, np.uint8)
