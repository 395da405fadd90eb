"""Bytes to pixels: read the header, enforce the limits, decode, bring to the network's size.

Training, calibration, evaluation and serving all go through here, so a picture means the same pixels everywhere.

Rules, fixed and documented because every one of them changes scores:

* EXIF orientation is ignored: pixels are taken as the sensor stored them, and regions are reported in these pixels.
* 16-bit samples are reduced to 8 bits over their full range (value // 256), never stretched to the data.
* Grayscale becomes RGB by repetition, transparency is dropped, palettes and CMYK are converted.
* Only the first frame of a multi-frame file is read.
* Resizing averages areas when it shrinks and interpolates linearly when it enlarges.
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

from service.bundle import InputGeometry
from service.errors import BodyTooLarge, CorruptImage, NotAnImage, TooManyPixels

UInt8Image = npt.NDArray[np.uint8]

# Pictures are worked on side by side, each on one thread; OpenCV's own threads would fight over the same cores.
cv2.setNumThreads(1)

MEDIA_TYPES = {
    "JPEG": "image/jpeg",
    "PNG": "image/png",
    "BMP": "image/bmp",
    "WEBP": "image/webp",
    "TIFF": "image/tiff",
}
SUFFIXES = {
    "image/jpeg": ".jpg",
    "image/png": ".png",
    "image/bmp": ".bmp",
    "image/webp": ".webp",
    "image/tiff": ".tiff",
}
_MAGIC = {
    b"\xff\xd8\xff": "image/jpeg",
    b"\x89PNG\r\n\x1a\n": "image/png",
    b"BM": "image/bmp",
    b"II*\x00": "image/tiff",
    b"MM\x00*": "image/tiff",
}
_PNG_END = b"IEND\xaeB`\x82"  # the last chunk of every PNG with its checksum, always the same bytes
# Pillow's own bomb limit is fixed and process-wide; ours comes with every call and is checked before decoding.
Image.MAX_IMAGE_PIXELS = None
# What Pillow raises on damaged data depends on the format's plugin.
_DAMAGE = (OSError, ValueError, SyntaxError, EOFError, IndexError, KeyError, TypeError, struct.error)


@dataclass(frozen=True)
class ImageLimits:
    """What is refused before it costs memory: encoded bytes and decoded pixels."""

    max_bytes: int = 32 * 1024 * 1024
    max_pixels: int = 64_000_000


@dataclass(frozen=True)
class ImageHeader:
    """What a file says about itself; `media_type` is sniffed, never taken from the sender."""

    media_type: str
    width: int
    height: int


def read_header(data: bytes) -> ImageHeader:
    """Identify an encoded image without decoding its pixels.

    Raises:
        NotAnImage: The bytes are not one of the supported formats.
        CorruptImage: The format is known but its header is damaged.
    """
    return _header(_open(data))


def decode(data: bytes, limits: ImageLimits) -> UInt8Image:
    """Decode an image completely or not at all.

    Args:
        data: The encoded image.
        limits: Checked against the header, before any pixel is decoded.

    Returns:
        uint8 [H, W, 3], RGB, contiguous.

    Raises:
        BodyTooLarge, TooManyPixels: A limit is exceeded.
        NotAnImage: The bytes are not one of the supported formats.
        CorruptImage: The data is truncated or damaged; a half-decoded picture is never returned.
    """
    if len(data) > limits.max_bytes:
        raise BodyTooLarge(limits.max_bytes)
    image = _open(data)
    header = _header(image)
    if header.width * header.height > limits.max_pixels:
        raise TooManyPixels(header.width, header.height, limits.max_pixels)
    try:
        # simplejpeg turns libjpeg's warnings into errors; other decoders fill a damaged picture with gray.
        if image.format == "JPEG" and image.mode in ("RGB", "L"):
            return np.ascontiguousarray(simplejpeg.decode_jpeg(data, "RGB", strict=True))
        image.load()
        if image.format == "PNG" and _PNG_END not in data:
            # Pillow is content once it has all pixels; a checksum that never arrived vouches for none of them.
            raise ValueError("its last bytes are missing")
        return _to_rgb(image)
    except _DAMAGE as error:
        raise CorruptImage(header.media_type, str(error) or type(error).__name__) from error


def prepare(rgb: UInt8Image, geometry: InputGeometry) -> UInt8Image:
    """Stretch a picture to the size that the graph takes.

    Args:
        rgb: uint8 [H, W, 3], RGB.
        geometry: The graph's input.

    Returns:
        uint8 [geometry.height, geometry.width, 3], contiguous.
    """
    size = (geometry.height, geometry.width)
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


def _open(data: bytes) -> Image.Image:
    formats = list(MEDIA_TYPES.values())
    try:
        return Image.open(io.BytesIO(data), formats=list(MEDIA_TYPES))
    except (UnidentifiedImageError, *_DAMAGE) as error:
        # Pillow does not tell a cut header from a foreign format; the first bytes do.
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


def _to_rgb(image: Image.Image) -> UInt8Image:
    if image.mode.startswith("I;16"):
        gray = (np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8)
        return np.repeat(gray[..., None], 3, axis=2)
    if image.mode in ("I", "F"):
        raise NotAnImage("its samples have 32 bits, which has no agreed black and white", list(MEDIA_TYPES.values()))
    return np.array(image.convert("RGB"), np.uint8)
