"""Decode image bytes to pixels: detect the format, enforce the limits, decode, reduce to 8-bit RGB.

Training, calibration, evaluation and serving all use this module, so an image has the same pixels everywhere. Every
format has one decoder in a module of its own: `jpeg`, `png`, `webp`, `bmp`, `tiff`, and `samples` for camera buffers.

The following rules are the same for all formats, because each of them changes scores:

* What a file states is obeyed. What it does not state is not guessed: the file is refused.
* Damaged files are refused. Files whose pixels are complete are accepted even if their metadata is unusual.
* EXIF orientation and the orientation tag of TIFF are ignored. Pixels are used as the sensor stored them, and regions
  are reported in these pixels. Colour profiles and gamma values are ignored.
* Samples of more than 8 bits are reduced to 8 over the range that the recipe declares, otherwise over their full range
  (value // 256 for 16 bits); see `samples.py`. The range never depends on the image.
* Grayscale becomes RGB by repetition. Palettes and CMYK are converted. Transparency is dropped: the stored colour of a
  transparent pixel is used.
* A file with several images has one that the format defines as the main image (first image of MPO, default image of
  APNG, first full-resolution page of TIFF). Animated WebP files define none and are refused.
* A camera buffer is read as its declared layout says. Bayer mosaics are interpolated linearly before their range is
  reduced.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import cv2
import numpy as np
import numpy.typing as npt

from service import file_formats
from service.errors import BodyTooLarge, PlumblineError
from service.inspection.decoding import bmp, formats, jpeg, png, tiff, webp
from service.inspection.decoding.pixel_formats import DEFAULT_RULES, RAW_MEDIA_TYPE, PixelRules
from service.inspection.decoding.samples import Samples, check_buffer, read_buffer, to_8_bit
from service.inspection.errors import CorruptImage, ImageTooComplex, NotAnImage

_log = logging.getLogger(__name__)
ResultT = TypeVar("ResultT")
UInt8Image = npt.NDArray[np.uint8]
_SIZES: Mapping[str, Callable[[bytes], tuple[int, int]]] = {
    formats.JPEG: jpeg.read_size,
    formats.PNG: png.read_size,
    formats.BMP: bmp.read_size,
    formats.WEBP: webp.read_size,
    formats.TIFF: tiff.read_size,
}


@dataclass(frozen=True)
class ImageLimits:
    """Limits that are enforced before an image takes memory.

    Attributes:
        max_bytes: Most encoded bytes.
        max_pixels: Most decoded pixels, width x height.
    """

    max_bytes: int = 32 * 1024 * 1024
    max_pixels: int = 64_000_000


@dataclass(frozen=True)
class ImageHeader:
    """Format and size of an image.

    Attributes:
        media_type: Detected from the data, never taken from the sender.
        width: Width in pixels.
        height: Height in pixels.
    """

    media_type: str
    width: int
    height: int


def read_media_type(data: bytes, rules: PixelRules = DEFAULT_RULES) -> str:
    """Return the media type of an image, detected from its first bytes.

    Args:
        data: The encoded image, or the camera buffer where `rules` has a layout.
        rules: What the recipe and the sender declare about the pixels.

    Raises:
        NotAnImage: The bytes are not in a supported format.
    """
    if rules.layout is not None:
        return RAW_MEDIA_TYPE
    media_type = formats.detect(data)
    if media_type is None:
        raise NotAnImage(_describe(data), formats.MEDIA_TYPES)
    return media_type


def _describe(data: bytes) -> str:
    """Return what data that is not in a supported format is, and what to do."""
    if not data:
        return "it is empty; check that the file was written and transferred completely"
    if found := file_formats.detect(data):
        return f"it is {found.name}; {found.advice}"
    return f"it begins with the bytes {data[:8].hex(' ')}, which no known format has; a camera buffer needs its layout"


def read_header(data: bytes, rules: PixelRules = DEFAULT_RULES) -> ImageHeader:
    """Read format and size of an image without decoding its pixels.

    Args:
        data: The encoded image, or the camera buffer where `rules` has a layout.
        rules: What the recipe and the sender declare about the pixels.

    Raises:
        NotAnImage: The bytes are not in a supported format.
        UnsupportedImage: The file uses a feature of its format that is not supported.
        CorruptImage: The format is supported, but the header is damaged.
    """
    media_type = read_media_type(data, rules)
    if rules.layout is not None:
        return ImageHeader(media_type, rules.layout.width, rules.layout.height)
    return ImageHeader(media_type, *_guard(media_type, lambda: _SIZES[media_type](data)))


def check_header(data: bytes, limits: ImageLimits, rules: PixelRules = DEFAULT_RULES) -> ImageHeader:
    """Check everything that the header of an image states, without decoding its pixels, and return it.

    Args:
        data: The encoded image, or the camera buffer where `rules` has a layout.
        limits: Limits on encoded bytes and pixels.
        rules: What the recipe and the sender declare about the pixels.

    Raises:
        BodyTooLarge, TooManyPixels, ImageTooComplex: A limit is exceeded.
        NotAnImage, UnsupportedImage, CorruptImage: As for `read_header`.
        BufferSizeMismatch: The size of the buffer does not match its layout.
    """
    if len(data) > limits.max_bytes:
        raise BodyTooLarge(limits.max_bytes)
    header = read_header(data, rules)
    formats.check_size(header.width, header.height, limits.max_pixels)
    if rules.layout is not None:
        check_buffer(data, rules.layout)
    return header


def decode(
    data: bytes, limits: ImageLimits, rules: PixelRules = DEFAULT_RULES, needed: tuple[int, int] | None = None
) -> UInt8Image:
    """Decode an image completely or not at all.

    Args:
        data: The encoded image, or the camera buffer where `rules` has a layout.
        limits: Checked against the header, before any pixel is decoded.
        rules: What the recipe and the sender declare about the pixels.
        needed: Height and width in pixels that are needed of a JPEG image: it is decoded at a fraction of its size
            that is not below them (`jpeg.scaled_size`). None decodes the full size, as other formats always are.

    Returns:
        uint8 [H, W, 3], RGB, contiguous.

    Raises:
        BodyTooLarge, TooManyPixels, ImageTooComplex: A limit is exceeded.
        NotAnImage: The bytes are not in a supported format.
        UnsupportedImage: The file uses a feature of its format that is not supported.
        CorruptImage: The data is truncated or damaged. A partly decoded image is never returned.
        BufferSizeMismatch: The size of the buffer does not match its layout.
        PixelMismatch: The image does not match what the recipe declares.
    """
    if len(data) > limits.max_bytes:
        raise BodyTooLarge(limits.max_bytes)
    if rules.layout is not None:
        formats.check_size(rules.layout.width, rules.layout.height, limits.max_pixels)
        return _in_rgb(read_buffer(data, rules.layout), rules.layout.format.bits, rules)
    media_type = read_media_type(data)
    samples, bits = _guard(media_type, lambda: _read_samples(media_type, data, limits.max_pixels, rules, needed))
    return _in_rgb(samples, bits, rules)


def _read_samples(
    media_type: str, data: bytes, max_pixels: int, rules: PixelRules, needed: tuple[int, int] | None
) -> tuple[Samples, int]:
    """Decode with the one decoder of the format."""
    match media_type:
        case formats.JPEG:
            return jpeg.read_samples(data, max_pixels, tolerate_stray_bytes=rules.tolerate_stray_bytes, needed=needed)
        case formats.PNG:
            return png.read_samples(data, max_pixels)
        case formats.BMP:
            return bmp.read_samples(data, max_pixels)
        case formats.WEBP:
            return webp.read_samples(data, max_pixels)
    return tiff.read_samples(data, max_pixels)


def _guard(media_type: str, read: Callable[[], ResultT]) -> ResultT:
    """Turn every unexpected exception of a decoding library into a refusal, and log it."""
    try:
        return read()
    except PlumblineError:
        raise
    except MemoryError as error:
        raise ImageTooComplex(media_type, "decoding it needs more memory than is available") from error
    except Exception as error:
        _log.warning("The decoder of %s raised an unexpected exception.", media_type, exc_info=error)
        raise CorruptImage(media_type, "the decoder rejects it") from error


def _in_rgb(samples: Samples, bits: int, rules: PixelRules) -> UInt8Image:
    reduced = to_8_bit(samples, bits, rules)
    return np.ascontiguousarray(cv2.cvtColor(reduced, cv2.COLOR_GRAY2RGB) if reduced.ndim == 2 else reduced)
