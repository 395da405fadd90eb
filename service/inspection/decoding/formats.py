"""Image formats that are decoded, their detection from the first bytes, and the limit on their size."""

from __future__ import annotations

from collections.abc import Mapping

from service.inspection.decoding.pixel_formats import RAW_MEDIA_TYPE
from service.inspection.errors import TooManyPixels

JPEG = "image/jpeg"
PNG = "image/png"
BMP = "image/bmp"
WEBP = "image/webp"
TIFF = "image/tiff"
MEDIA_TYPES = (JPEG, PNG, BMP, WEBP, TIFF)
SUFFIXES: Mapping[str, str] = {
    JPEG: ".jpg",
    PNG: ".png",
    BMP: ".bmp",
    WEBP: ".webp",
    TIFF: ".tiff",
    RAW_MEDIA_TYPE: ".raw",
}
TIFF_SIGNATURES = (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")  # the last two are BigTIFF
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_SIGNATURES: Mapping[bytes, str] = {
    b"\xff\xd8\xff": JPEG,
    PNG_SIGNATURE: PNG,
    b"BM": BMP,
    **dict.fromkeys(TIFF_SIGNATURES, TIFF),
}


def detect(data: bytes) -> str | None:
    """Return the media type that the first bytes identify, or None if no supported format begins with them."""
    for signature, media_type in _SIGNATURES.items():
        if data.startswith(signature):
            return media_type
    return WEBP if data[:4] == b"RIFF" and data[8:12] == b"WEBP" else None


def check_size(width: int, height: int, max_pixels: int) -> None:
    """Refuse an image with too many pixels.

    Raises:
        TooManyPixels: The limit is exceeded.
    """
    if width * height > max_pixels:
        raise TooManyPixels(width, height, max_pixels)
