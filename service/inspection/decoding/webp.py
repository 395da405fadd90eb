"""Decode WebP files with one image.

The chunks of the file are verified here. libwebp (in Pillow) decodes a file that has only the image data. Transparency
is dropped. Animated files are refused, because nothing in them states which frame is the image of the part.
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass

import numpy as np
from PIL import Image

from service.inspection.decoding.formats import WEBP, check_size
from service.inspection.decoding.samples import Samples
from service.inspection.errors import CorruptImage, ImageTooComplex, UnsupportedImage

_MAX_CHUNKS = 10_000
_ANIMATED = 0x02
_VP8_SIGNATURE = b"\x9d\x01\x2a"
_VP8L_SIGNATURE = 0x2F


@dataclass(frozen=True)
class _Contents:
    """The image data of a file: a chunk VP8 or VP8L and the size that it states."""

    kind: bytes
    body: bytes
    width: int
    height: int


def read_size(data: bytes) -> tuple[int, int]:
    """Return width and height.

    Raises:
        CorruptImage, UnsupportedImage: The file is truncated, damaged or animated.
    """
    contents = _parse(data)
    return contents.width, contents.height


def read_samples(data: bytes, max_pixels: int) -> tuple[Samples, int]:
    """Decode the image.

    Returns:
        Samples, uint8 [H, W, 3] RGB, and their number of bits, 8.

    Raises:
        TooManyPixels, ImageTooComplex: A limit is exceeded; nothing was decoded.
        UnsupportedImage: The file is animated.
        CorruptImage: The file is truncated or damaged.
    """
    contents = _parse(data)
    check_size(contents.width, contents.height, max_pixels)
    padded = contents.body + bytes(len(contents.body) % 2)
    chunk = contents.kind + struct.pack("<I", len(contents.body)) + padded
    riff = b"RIFF" + struct.pack("<I", 4 + len(chunk)) + b"WEBP" + chunk
    try:
        with Image.open(io.BytesIO(riff), formats=["WEBP"]) as image:
            samples = np.asarray(image, np.uint8)
    except (OSError, ValueError) as error:
        raise CorruptImage(WEBP, "its image data is damaged") from error
    if samples.shape[:2] != (contents.height, contents.width):
        raise CorruptImage(WEBP, "its image data does not have the size that its header states")
    return samples[..., :3], 8


def _parse(data: bytes) -> _Contents:
    if len(data) < 12:
        raise CorruptImage(WEBP, "its last bytes are missing")
    end = 8 + int.from_bytes(data[4:8], "little")
    if end > len(data):
        raise CorruptImage(WEBP, "its last bytes are missing")
    image: _Contents | None = None
    canvas: tuple[int, int] | None = None
    at = 12
    for _ in range(_MAX_CHUNKS):
        if at + 8 > end:
            break
        kind, size = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        body = data[at + 8 : at + 8 + size]
        at += 8 + size + size % 2
        if len(body) != size or at - size % 2 > end:
            raise CorruptImage(WEBP, "its last bytes are missing")
        match kind:
            case b"VP8X" if size >= 10:
                if body[0] & _ANIMATED:
                    raise _animated()
                canvas = 1 + int.from_bytes(body[4:7], "little"), 1 + int.from_bytes(body[7:10], "little")
            case b"ANIM" | b"ANMF":
                raise _animated()
            case b"VP8 " | b"VP8L":
                if image is not None:
                    raise CorruptImage(WEBP, "it has more than one image")
                image = _Contents(kind, body, *(_lossy_size(body) if kind == b"VP8 " else _lossless_size(body)))
    else:
        raise ImageTooComplex(WEBP, f"it has more than {_MAX_CHUNKS} chunks")
    if image is None:
        raise CorruptImage(WEBP, "it has no image data")
    if canvas is not None and canvas != (image.width, image.height):
        raise CorruptImage(WEBP, "its image data does not have the size that its header states")
    return image


def _animated() -> UnsupportedImage:
    return UnsupportedImage(WEBP, "it is animated; send a single image")


def _lossy_size(body: bytes) -> tuple[int, int]:
    """Return width and height of a key frame of VP8 (RFC 6386, section 9.1)."""
    if len(body) < 10 or body[0] & 1 or body[3:6] != _VP8_SIGNATURE:
        raise CorruptImage(WEBP, "its image data has no valid header")
    width, height = struct.unpack("<HH", body[6:10])
    return _checked(width & 0x3FFF, height & 0x3FFF)


def _lossless_size(body: bytes) -> tuple[int, int]:
    """Return width and height of a lossless image (RFC 9649, section 3.4)."""
    if len(body) < 5 or body[0] != _VP8L_SIGNATURE:
        raise CorruptImage(WEBP, "its image data has no valid header")
    bits = int.from_bytes(body[1:5], "little")
    return _checked((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1)


def _checked(width: int, height: int) -> tuple[int, int]:
    if not width or not height:
        raise CorruptImage(WEBP, f"its header states {width} x {height} pixels")
    return width, height
