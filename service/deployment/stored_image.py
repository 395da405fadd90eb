"""Decoding of stored images, which another version of Plumbline may have accepted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from service.bundle.arrays import UInt8Image
from service.bundle.manifest import InputGeometry
from service.errors import BodyTooLarge
from service.inspection import tiling
from service.inspection.decoded_image import decode_for
from service.inspection.decoding import decoder
from service.inspection.decoding.decoder import ImageLimits
from service.inspection.decoding.pixel_formats import PixelRules
from service.inspection.errors import (
    BufferSizeMismatch,
    CorruptImage,
    ImageTooComplex,
    NotAnImage,
    PixelMismatch,
    TooManyPixels,
    UnsupportedImage,
)
from service.store.errors import StoredImageUnreadable
from service.store.records import InspectionRecord

DECODING_ERRORS = (
    BodyTooLarge, TooManyPixels, ImageTooComplex, NotAnImage, UnsupportedImage, CorruptImage, PixelMismatch,
    BufferSizeMismatch,
)  # fmt: skip


@contextmanager
def decoding_stored(record: InspectionRecord) -> Iterator[None]:
    """Report the refusal of a stored image in the block as a property of the inspection, not of the request.

    Args:
        record: The inspection.

    Raises:
        StoredImageUnreadable: The decoder refused the image.
    """
    try:
        yield
    except DECODING_ERRORS as error:
        raise StoredImageUnreadable(record.id, error.slug, error.detail) from error


def decode_stored(record: InspectionRecord, data: bytes) -> UInt8Image:
    """Decode the image of a stored inspection.

    The image passed the limits when it was inspected. Limits that were lowered since do not apply.

    Args:
        record: The inspection.
        data: The image as it was received.

    Returns:
        uint8 [H, W, 3], RGB.

    Raises:
        StoredImageUnreadable: The decoder refused the image.
    """
    with decoding_stored(record):
        return decoder.decode(data, _limits(record, data), PixelRules.from_stored(record.image_pixels))


def prepare_stored(record: InspectionRecord, data: bytes, geometry: InputGeometry) -> UInt8Image:
    """Decode the image of a stored inspection for a graph and prepare it, as when it was inspected.

    Args:
        record: The inspection.
        data: The image as it was received.
        geometry: The input of the graph.

    Returns:
        uint8 [h, w, 3], RGB, for the graph or its tiles.

    Raises:
        StoredImageUnreadable: The decoder refused the image.
    """
    with decoding_stored(record):
        image = decode_for(data, _limits(record, data), geometry, PixelRules.from_stored(record.image_pixels))
    return tiling.prepare_input(image.rgb, geometry)


def _limits(record: InspectionRecord, data: bytes) -> ImageLimits:
    return ImageLimits(max_bytes=len(data), max_pixels=record.image_width * record.image_height)
