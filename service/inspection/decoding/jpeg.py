"""Decode JPEG files: baseline and progressive, Huffman coding, 8 bits.

`jpeg_file` verifies the structure of the file and drops its metadata. libjpeg-turbo (in simplejpeg) decodes the rest in
strict mode, in which every warning about the coded data is an error.

An image that is much larger than needed can be decoded at a fraction of its size: libjpeg-turbo then computes the
inverse cosine transform of the lowest frequencies of each block only ("scaled decoding", `scale_num` in libjpeg's
documentation). The coded data is still read to its end, so damage is detected as in full decoding, but fewer pixels are
computed, written and resized. The pixels are not those of full decoding followed by resizing, so a bundle states
which of the two its images are decoded with.
"""

from __future__ import annotations

import logging
import re
import struct
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import simplejpeg
from PIL import Image

from service.inspection.decoding import jpeg_file
from service.inspection.decoding.formats import JPEG, check_size
from service.inspection.decoding.jpeg_file import JpegFile, Marker, Scan
from service.inspection.decoding.samples import Samples
from service.inspection.errors import CorruptImage, ImageTooComplex, UnsupportedImage

_log = logging.getLogger(__name__)
_STRAY_BYTES = re.compile(r"(\d+) extraneous bytes before marker")
# Messages of libjpeg-turbo about features that it does not support, and about damage, with our own texts.
_FEATURES: Mapping[str, str] = {
    "subsampling": "its chroma subsampling is unusual; 4:4:4, 4:2:2, 4:4:0, 4:2:0, 4:1:1 and 4:4:1 are read",
    "not implemented": "its coding is not supported; baseline and progressive Huffman coding are read",
    "unsupported": "its coding is not supported; baseline and progressive Huffman coding are read",
    "not supported": "its coding is not supported; baseline and progressive Huffman coding are read",
}
_DAMAGE: Mapping[str, str] = {
    "premature end": "its coded data ends too early",
    "bad huffman code": "its coded data contains an impossible code",
    "found marker": "a restart marker is missing or out of order",
    "huffman table": "a Huffman table is missing or damaged",
    "dht": "a Huffman table is missing or damaged",
    "quantization table": "a quantization table is missing or damaged",
    "dqt": "a quantization table is missing or damaged",
    "progressi": "its progressive scans are inconsistent",
}
_RESTART = re.compile(rb"\xff+([\xd0-\xd7])")
_MAX_TOLERANT_INTERVALS = 10_000
_MAX_STRAY_BYTES = 64  # of one restart interval
_PADDING = bytes(16)
_MAX_SIDE = 65_535
_BLOCK = 8
# Eighths of the full size at which images are decoded. Five to seven eighths take longer than the full size.
_FRACTIONS = (1, 2, 3, 4)


class _StrayBytes(Exception):
    """The decoder found bytes after the coded data of a restart interval."""

    def __init__(self, count: int) -> None:
        super().__init__(count)
        self.count = count


def read_size(data: bytes) -> tuple[int, int]:
    """Return width and height.

    Raises:
        CorruptImage, UnsupportedImage: The header is damaged or states an unsupported feature.
    """
    frame = jpeg_file.read_frame(data)
    return frame.width, frame.height


def scaled_size(size: tuple[int, int], needed: tuple[int, int]) -> tuple[int, int]:
    """Return the size at which an image is decoded.

    Args:
        size: Height and width of the image.
        needed: Smallest height and width that are needed.

    Returns:
        The smallest of 1/8, 2/8, 3/8 and 4/8 of the size that is a whole number of pixels and not below the needed size
        in height and width; the full size if there is none. At another fraction, the last row or column would extend
        beyond the image, and everything in it would be shifted.
    """
    for eighths in _FRACTIONS:
        (height, left), (width, right) = (divmod(side * eighths, _BLOCK) for side in size)
        if left == right == 0 and height >= needed[0] and width >= needed[1]:
            return height, width
    return size


def read_samples(
    data: bytes, max_pixels: int, *, tolerate_stray_bytes: bool = False, needed: tuple[int, int] | None = None
) -> tuple[Samples, int]:
    """Decode the first image of the file.

    Args:
        data: The file.
        max_pixels: Most pixels of the image.
        tolerate_stray_bytes: Accept up to 64 bytes between the coded data of a restart interval and the next marker,
            which some cameras insert. Every interval must still be complete, and every restart marker must be there.
        needed: Height and width that are needed of the image, which is decoded at the size of `scaled_size` then. None
            decodes it at its full size.

    Returns:
        Samples, uint8 [H, W] gray or [H, W, 3] RGB, and their number of bits, 8.

    Raises:
        TooManyPixels, ImageTooComplex: A limit is exceeded; nothing was decoded.
        UnsupportedImage: The file uses an unsupported feature.
        CorruptImage: The file is truncated or damaged.
    """
    check_size(*read_size(data), max_pixels)
    file = jpeg_file.parse(data)
    try:
        return _decode(file, needed), 8
    except _StrayBytes as error:
        if tolerate_stray_bytes:
            return _decode_tolerantly(file, needed), 8
        raise CorruptImage(
            JPEG,
            f"{error.count} stray bytes before a marker within the pixel data; for a camera that always inserts such "
            "bytes, set pixels.tolerate_stray_bytes in the recipe",
        ) from error


def _decode(file: JpegFile, needed: tuple[int, int] | None = None) -> Samples:
    """Decode the scans, at the full size or at the size of `scaled_size`.

    Raises:
        _StrayBytes: There are bytes between coded data and a marker, and nothing else is wrong before them.
        UnsupportedImage, CorruptImage: The scans cannot be decoded.
    """
    colorspace = {"gray": "GRAY", "ycc": "RGB", "rgb": "RGB", "cmyk": "CMYK", "ycck": "CMYK"}[file.colour]
    full = (file.frame.height, file.frame.width)
    height, width = size = full if needed is None else scaled_size(full, needed)
    # simplejpeg chooses the smallest fraction that is not below a size. 0 is the full size.
    smallest = {"min_height": height, "min_width": width} if size != full else {}
    try:
        samples = np.asarray(simplejpeg.decode_jpeg(file.encode(), colorspace, strict=True, **smallest), np.uint8)
    except ValueError as error:
        message = str(error)
        if found := _STRAY_BYTES.search(message):
            raise _StrayBytes(int(found[1])) from error
        _log.debug("libjpeg-turbo refuses the image: %s", message)
        if feature := _text_for(message, _FEATURES):
            raise UnsupportedImage(JPEG, feature) from error
        raise CorruptImage(JPEG, _text_for(message, _DAMAGE) or "its coded data is damaged") from error
    if samples.shape[:2] != size:
        raise RuntimeError(f"libjpeg-turbo decoded {samples.shape[:2]} pixels instead of {size}")
    if file.colour == "gray":
        return samples[..., 0]
    if colorspace == "CMYK":
        # The Adobe marker states that the values are inverted.
        return np.asarray(Image.fromarray(255 - samples, "CMYK").convert("RGB"))
    return samples


def _text_for(message: str, texts: Mapping[str, str]) -> str | None:
    """Return our text for a message of the decoder, or None if there is none."""
    return next((text for part, text in texts.items() if part in message.lower()), None)


def _decode_tolerantly(file: JpegFile, needed: tuple[int, int] | None) -> Samples:
    """Decode a sequential file after the stray bytes were removed from the end of each restart interval."""
    scan, *others = file.scans
    if file.frame.progressive or others:
        raise UnsupportedImage(JPEG, "stray bytes are tolerated only in sequential files with one scan")
    pieces = _RESTART.split(scan.data)
    intervals, markers = pieces[::2], pieces[1::2]
    sampling = [(item.horizontal, item.vertical) for item in file.frame.components]
    # A scan with one component has one block per MCU, whatever the sampling factors are.
    across, down = (1, 1) if len(sampling) == 1 else (max(h for h, _ in sampling), max(v for _, v in sampling))
    columns, rows = -(-file.frame.width // (_BLOCK * across)), -(-file.frame.height // (_BLOCK * down))
    total = columns * rows
    size = scan.restart_interval or total
    if len(intervals) != -(-total // size) or any(marker[0] & 7 != n % 8 for n, marker in enumerate(markers)):
        raise CorruptImage(JPEG, "restart markers are missing or out of order")
    if len(intervals) > _MAX_TOLERANT_INTERVALS:
        raise ImageTooComplex(JPEG, f"it has stray bytes and more than {_MAX_TOLERANT_INTERVALS} restart intervals")
    cleaned: list[bytes] = []
    for number, interval in enumerate(intervals):
        count = min(size, total - number * size)
        wide, high = (columns, count // columns) if count % columns == 0 else (count, 1)
        width, height = wide * _BLOCK * across, high * _BLOCK * down
        cleaned.append(_remove_stray_bytes(file, interval, count, width, height))
    clean = b"".join(
        piece + (b"\xff" + marker if marker else b"") for piece, marker in zip(cleaned, [*markers, b""], strict=True)
    )
    try:
        return _decode(_with_data(file, clean), needed)
    except _StrayBytes as error:
        raise CorruptImage(JPEG, "stray bytes within its pixel data cannot be removed") from error


def _remove_stray_bytes(file: JpegFile, interval: bytes, count: int, width: int, height: int) -> bytes:
    """Return the coded data of a restart interval without the bytes after it.

    A restart interval depends on no other one, so it is decoded as an image of its own. Only before a restart marker,
    and only if there are more than it reads in advance, the decoder reports the exact number of unused bytes. So
    padding is appended, and the interval is repeated after a restart marker. Stuffed bytes may count once or twice, so
    the removal is repeated until only the padding is unused.

    Args:
        file: The file.
        interval: The coded data.
        count: Its number of MCUs.
        width: Width in pixels of an image of these MCUs.
        height: Height in pixels of an image of these MCUs.
    """
    if max(width, 2 * height) > _MAX_SIDE:
        raise UnsupportedImage(JPEG, "it has stray bytes, and its restart intervals are too large or no whole rows")
    size = struct.pack(">HH", 2 * height, width)
    frame = replace(file.frame, body=file.frame.body[:1] + size + file.frame.body[5:])
    tables = [part for part in file.parts if not isinstance(part, Scan) and part[0] != Marker.DRI]
    twice = replace(file, frame=frame, parts=[*tables, (Marker.DRI, struct.pack(">H", count)), *file.scans])
    stray = 0
    while True:
        try:
            _decode(_with_data(twice, interval + _PADDING + b"\xff\xd0" + interval))
            unused = -1  # the padding was read as coded data
        except _StrayBytes as error:
            unused = error.count - len(_PADDING)
        stray += unused
        if unused < 0 or stray > _MAX_STRAY_BYTES:
            raise CorruptImage(JPEG, "a restart interval is incomplete or has too many stray bytes")
        if not unused:
            return interval
        interval = interval[:-unused].rstrip(b"\xff")


def _with_data(file: JpegFile, data: bytes) -> JpegFile:
    """Return the file with other coded data in its only scan."""
    parts = [replace(part, data=data) if isinstance(part, Scan) else part for part in file.parts]
    return replace(file, parts=parts)
