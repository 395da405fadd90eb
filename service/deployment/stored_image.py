"""Decoding of stored images, which another version of Plumbline may have accepted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from service.errors import BodyTooLarge
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
