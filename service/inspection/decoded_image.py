"""Decode an image for a graph: at its full size, or at the fraction of it that the graph needs.

Training, calibration and serving use this function, so that an image has the same pixels in all of them. What is drawn
or shown is decoded at its full size with `decoder.decode`.
"""

from __future__ import annotations

from dataclasses import dataclass

from service.bundle.arrays import UInt8Image
from service.bundle.manifest import InputGeometry
from service.inspection.decoding import decoder
from service.inspection.decoding.decoder import ImageLimits
from service.inspection.decoding.pixel_formats import DEFAULT_RULES, PixelRules


@dataclass(frozen=True)
class DecodedImage:
    """An image that was decoded for a graph.

    Attributes:
        rgb: uint8 [h, w, 3], RGB: the image, or, where the geometry states scaled decoding, a fraction of it.
        image_wh: Width and height of the image as it was sent, in pixels. Regions, areas and limits refer to them.
    """

    rgb: UInt8Image
    image_wh: tuple[int, int]


def decode_for(
    data: bytes, limits: ImageLimits, geometry: InputGeometry, rules: PixelRules = DEFAULT_RULES
) -> DecodedImage:
    """Decode an image as the input geometry of a graph states.

    Args:
        data: The encoded image, or the camera buffer where `rules` has a layout.
        limits: Limits on the image as it was sent.
        geometry: The input of the graph.
        rules: What the recipe and the sender declare about its pixels.

    Raises:
        PlumblineError: The image cannot be used; see `decoder.decode`.
    """
    if geometry.jpeg == "full":
        rgb = decoder.decode(data, limits, rules)
        return DecodedImage(rgb, (rgb.shape[1], rgb.shape[0]))
    rgb = decoder.decode(data, limits, rules, (geometry.height, geometry.width))
    header = decoder.read_header(data, rules)
    return DecodedImage(rgb, (header.width, header.height))
