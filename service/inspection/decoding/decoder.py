"""Decode image bytes to pixels: read the header, enforce the limits, decode, reduce to 8-bit RGB.

Training, calibration, evaluation and serving all use this module, so an image has the same pixels everywhere.

The following rules are fixed, because each of them changes scores:

* EXIF orientation (and the orientation tag of TIFF) is ignored. Pixels are used as the sensor stored them, and regions
  are reported in these pixels.
* Samples of more than 8 bits are reduced to 8 over the range that the recipe declares, otherwise over their full range
  (value // 256 for 16 bits); see `samples.py`. The range never depends on the image.
* Grayscale becomes RGB by repetition, transparency is dropped, palettes and CMYK are converted.
* Only the first frame of a multi-frame file is read.
* A camera buffer is read as its declared layout says. Bayer mosaics are interpolated linearly before their range is
  reduced.
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image, UnidentifiedImageError

from service.errors import BodyTooLarge
from service.inspection.decoding import tiff
from service.inspection.decoding.pixel_formats import DEFAULT_RULES, RAW_MEDIA_TYPE, PixelRules
from service.inspection.decoding.samples import Samples, read_buffer, to_8_bit
from service.inspection.errors import CorruptImage, NotAnImage, TooManyPixels

UInt8Image = npt.NDArray[np.uint8]
MEDIA_TYPES = {
    "JPEG": "image/jpeg",
    "PNG": "image/png",
    "BMP": "image/bmp",
    "WEBP": "image/webp",
    "TIFF": "image/tiff",
}
_PILLOW_FORMATS = [name for name in MEDIA_TYPES if name != "TIFF"]
SUFFIXES = {
    "image/jpeg": ".jpg",
    "image/png": ".png",
    "image/bmp": ".bmp",
    "image/webp": ".webp",
    "image/tiff": ".tiff",
    RAW_MEDIA_TYPE: ".raw",
}
_MAGIC = {
    b"\xff\xd8\xff": "image/jpeg",
    b"\x89PNG\r\n\x1a\n": "image/png",
    b"BM": "image/bmp",
    **dict.fromkeys(tiff.MAGIC, tiff.MEDIA_TYPE),
}
_PNG_BIT_DEPTH = 24  # position of the bit depth in the file's header
_PNG_END = b"IEND\xaeB`\x82"  # the last chunk of every PNG with its checksum: always these bytes
# The exceptions that Pillow raises on damaged data depend on the format.
_DAMAGE = (OSError, ValueError, SyntaxError, EOFError, IndexError, KeyError, TypeError, struct.error)


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


def read_header(data: bytes, rules: PixelRules = DEFAULT_RULES) -> ImageHeader:
    """Identify an image without decoding its pixels.

    Args:
        data: The encoded image, or the camera buffer where `rules` has a layout.
        rules: What the recipe and the sender declare about the pixels.

    Raises:
        NotAnImage: The bytes are not in a supported format.
        CorruptImage: The format is supported, but the header is damaged.
    """
    if rules.layout is not None:
        return ImageHeader(RAW_MEDIA_TYPE, rules.layout.width, rules.layout.height)
    if _magic(data) == tiff.MEDIA_TYPE:
        return ImageHeader(tiff.MEDIA_TYPE, *tiff.read_size(data))
    return _header(_open(data))


def decode(data: bytes, limits: ImageLimits, rules: PixelRules = DEFAULT_RULES) -> UInt8Image:
    """Decode an image completely or not at all.

    Args:
        data: The encoded image, or the camera buffer where `rules` has a layout.
        limits: Checked against the header, before any pixel is decoded.
        rules: What the recipe and the sender declare about the pixels.

    Returns:
        uint8 [H, W, 3], RGB, contiguous.

    Raises:
        BodyTooLarge, TooManyPixels: A limit is exceeded.
        NotAnImage: The bytes are not in a supported format.
        CorruptImage: The data is truncated or damaged. A partly decoded image is never returned.
        BufferSizeMismatch: The size of the buffer does not match its layout.
        PixelMismatch: The image does not match what the recipe declares.
    """
    if len(data) > limits.max_bytes:
        raise BodyTooLarge(limits.max_bytes)
    if rules.layout is not None:
        _check_size(rules.layout.width, rules.layout.height, limits)
        return _in_rgb(read_buffer(data, rules.layout), rules.layout.format.bits, rules)
    if _magic(data) == tiff.MEDIA_TYPE:
        return _in_rgb(*tiff.read_samples(data, limits.max_pixels), rules)
    image = _open(data)
    header = _header(image)
    _check_size(header.width, header.height, limits)
    try:
        samples, bits = _decode(data, image)
    except _DAMAGE as error:
        raise CorruptImage(header.media_type, str(error) or type(error).__name__) from error
    return _in_rgb(samples, bits, rules)


def _check_size(width: int, height: int, limits: ImageLimits) -> None:
    if width * height > limits.max_pixels:
        raise TooManyPixels(width, height, limits.max_pixels)


def _open(data: bytes) -> Image.Image:
    formats = list(MEDIA_TYPES.values())
    try:
        return Image.open(io.BytesIO(data), formats=_PILLOW_FORMATS)
    except (UnidentifiedImageError, *_DAMAGE) as error:
        # Pillow raises the same error for a truncated header and an unknown format. The first bytes distinguish them.
        if (media_type := _magic(data)) is not None:
            raise CorruptImage(media_type, "its header cannot be read") from error
        found = f"it begins with the bytes {data[:8].hex(' ')}" if data else "it is empty"
        raise NotAnImage(found, formats) from error


def _header(image: Image.Image) -> ImageHeader:
    assert image.format is not None  # set by every plugin that opens a file
    return ImageHeader(MEDIA_TYPES[image.format], *image.size)


def _magic(data: bytes) -> str | None:
    for prefix, media_type in _MAGIC.items():
        if data.startswith(prefix):
            return media_type
    return "image/webp" if data[:4] == b"RIFF" and data[8:12] == b"WEBP" else None


def _decode(data: bytes, image: Image.Image) -> tuple[Samples, int]:
    """Return the samples, gray or RGB, and their number of bits."""
    # simplejpeg turns libjpeg's warnings into errors. Other decoders fill a damaged image with gray.
    if image.format == "JPEG" and image.mode in ("RGB", "L"):
        return np.ascontiguousarray(simplejpeg.decode_jpeg(data, "RGB", strict=True)), 8
    image.load()
    if image.format == "PNG" and _PNG_END not in data:
        # Pillow stops when it has all pixels. If the end is missing, so are checksums of the data.
        raise ValueError("its last bytes are missing")
    if image.mode == "I;16":
        return np.asarray(image, np.uint16), 16
    if image.format == "PNG" and data[_PNG_BIT_DEPTH] == 16:
        # Pillow keeps only the upper 8 bits of 16-bit colours. It has validated the file; OpenCV decodes all 16 bits.
        bgr = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        if bgr is None:
            raise ValueError("it cannot be decoded")
        return np.asarray(bgr[..., 2::-1], np.uint16), 16
    return np.array(image.convert("RGB"), np.uint8), 8


def _in_rgb(samples: Samples, bits: int, rules: PixelRules) -> UInt8Image:
    reduced = to_8_bit(samples, bits, rules)
    return np.ascontiguousarray(cv2.cvtColor(reduced, cv2.COLOR_GRAY2RGB) if reduced.ndim == 2 else reduced)
