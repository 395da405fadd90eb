"""Read the first page of a TIFF file, after its header was validated.

The header of a TIFF states the sizes of the image, its strips and its tiles, and any of them may be false and cost
gigabytes. So nothing is allocated before each size is known to be within the limits. tifffile parses the header. Strips
and tiles are decompressed by libtiff (in Pillow), each under a new header that states the expected size. The
decompressors that tifffile would use (imagecodecs) can crash the process on a damaged file.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from tifffile import COMPRESSION, FILLORDER, PHOTOMETRIC, PLANARCONFIG, PREDICTOR, SAMPLEFORMAT, TiffFile, TiffPage

from service.inspection.decoding.samples import Samples
from service.inspection.errors import CorruptImage, NotAnImage, TooManyPixels

MEDIA_TYPE = "image/tiff"
MAGIC = (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")  # the last two are BigTIFF
_COMPRESSIONS = {
    COMPRESSION.NONE: "none",
    COMPRESSION.LZW: "LZW",
    COMPRESSION.ADOBE_DEFLATE: "deflate",
    COMPRESSION.DEFLATE: "deflate",
    COMPRESSION.PACKBITS: "PackBits",
}
_BITS = (1, 2, 4, 8, 12, 16)
_MAX_CHANNELS = 8
_SHORT, _LONG = 3, 4


def read_size(data: bytes) -> tuple[int, int]:
    """Return width and height of the first page.

    Raises:
        CorruptImage: The header is damaged.
    """
    with _first_page(data) as page:
        return page.imagewidth, page.imagelength


def read_samples(data: bytes, max_pixels: int) -> tuple[Samples, int]:
    """Decode the first page.

    Transparency is dropped, palettes and CMYK are converted, white-is-zero is inverted, and samples of less than 8 bits
    are expanded to 8.

    Args:
        data: The file.
        max_pixels: Most pixels of the image and of a tile.

    Returns:
        Samples, uint8 or uint16, [H, W] gray or [H, W, 3] RGB, and their number of bits, 8 to 16.

    Raises:
        TooManyPixels: A limit is exceeded; nothing was decoded.
        NotAnImage: The file has no image of 1 to 16 bits, or uses a TIFF feature that is not supported.
        CorruptImage: The file is truncated or damaged.
    """
    with _first_page(data) as page:
        _check(page, len(data), max_pixels)
        return _in_rgb_or_gray(page, _assemble(page, data))


@contextmanager
def _first_page(data: bytes) -> Iterator[TiffPage]:
    try:
        # Metadata of microscopes (OME and others) describes further pages, which are not read.
        with TiffFile(io.BytesIO(data), name="image", is_ome=False, is_imagej=False) as file:
            page = file.pages.first
            if not isinstance(page, TiffPage):
                raise ValueError("it has no page")
            yield page
    except (TooManyPixels, NotAnImage):
        raise
    except Exception as error:  # any exception of the parser means that the file is damaged
        raise CorruptImage(MEDIA_TYPE, str(error) or type(error).__name__) from error


def _check(page: TiffPage, size: int, max_pixels: int) -> None:
    """Refuse an image that exceeds the limits or uses an unsupported feature."""
    width, height = page.imagewidth, page.imagelength
    if width < 1 or height < 1:
        raise ValueError(f"it is {width} x {height} pixels")
    if width * height > max_pixels:
        raise TooManyPixels(width, height, max_pixels)
    if page.is_tiled and page.tilewidth * page.tilelength > max_pixels:
        raise TooManyPixels(page.tilewidth, page.tilelength, max_pixels)
    if page.sampleformat != SAMPLEFORMAT.UINT or page.bitspersample not in _BITS:
        kind = getattr(page.sampleformat, "name", page.sampleformat)
        raise _unsupported(
            f"its samples are {page.bitspersample} bits {kind}, and no black and white level is defined for them"
        )
    if page.compression not in _COMPRESSIONS or page.predictor not in (PREDICTOR.NONE, PREDICTOR.HORIZONTAL):
        name = getattr(page.compression, "name", page.compression)
        raise _unsupported(
            f"its compression is {name}; {', '.join(dict.fromkeys(_COMPRESSIONS.values()))} are supported"
        )
    if page.imagedepth != 1 or not 1 <= page.samplesperpixel <= _MAX_CHANNELS:
        raise _unsupported(f"it holds {page.imagedepth} layers of {page.samplesperpixel} channels")
    if page.fillorder != FILLORDER.MSB2LSB or (page.predictor == PREDICTOR.HORIZONTAL and page.bitspersample % 8):
        raise _unsupported("its bit order is not supported")
    for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True):
        # Other readers treat a missing strip as black.
        if offset <= 0 or count <= 0 or offset + count > size:
            raise ValueError("its last bytes are missing")


def _assemble(page: TiffPage, data: bytes) -> Samples:
    """Decode the strips or tiles to one image: [H, W, C] of the file's samples, native byte order."""
    width, height, channels = page.imagewidth, page.imagelength, page.samplesperpixel
    planes, in_one = (channels, 1) if page.planarconfig == PLANARCONFIG.SEPARATE else (1, channels)
    tile_h, tile_w = (page.tilelength, page.tilewidth) if page.is_tiled else (min(page.rowsperstrip, height), width)
    corners = product(range(planes), range(0, height, tile_h), range(0, width, tile_w))
    image = np.empty((height, width, channels), np.uint8 if page.bitspersample <= 8 else np.uint16)
    for (plane, top, left), offset, count in zip(corners, page.dataoffsets, page.databytecounts, strict=True):
        rows = tile_h if page.is_tiled else min(tile_h, height - top)
        line_bytes = -(-tile_w * in_one * page.bitspersample // 8)
        lines = _decompress(data[offset : offset + count], page.compression, rows, line_bytes)
        tile: npt.NDArray[Any] = _unpack(lines, page, tile_w * in_one).reshape(rows, tile_w, in_one)
        if page.predictor == PREDICTOR.HORIZONTAL:
            tile = np.cumsum(tile, axis=1, dtype=tile.dtype)
        place = image[top : top + tile_h, left : left + tile_w, plane : plane + in_one]
        place[...] = tile[: place.shape[0], : place.shape[1]]
    return image


def _decompress(data: bytes, compression: int, rows: int, line_bytes: int) -> npt.NDArray[np.uint8]:
    """Decompress one strip or tile to uint8 [rows, line_bytes]. Any further data is ignored."""
    if compression == COMPRESSION.NONE:
        return np.frombuffer(data, np.uint8, rows * line_bytes).reshape(rows, line_bytes)
    tags = [
        (256, _LONG, line_bytes), (257, _LONG, rows), (258, _SHORT, 8), (259, _SHORT, int(compression)),
        (262, _SHORT, 1), (273, _LONG, 0), (277, _SHORT, 1), (278, _LONG, rows), (279, _LONG, len(data)),
    ]  # fmt: skip
    begins = 8 + 2 + 12 * len(tags) + 4
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, begins if tag == 273 else value) for tag, kind, value in tags)
    header = struct.pack("<4sIH", MAGIC[0], 8, len(tags)) + entries + bytes(4)
    with Image.open(io.BytesIO(header + data), formats=["TIFF"]) as image:
        return np.asarray(image, np.uint8)


def _unpack(lines: npt.NDArray[np.uint8], page: TiffPage, count: int) -> Samples:
    """Convert lines of bytes to lines of `count` samples. TIFF packs the most significant bit first."""
    bits = int(page.bitspersample)
    if bits == 8:
        return lines
    if bits == 16:
        order = page.parent.byteorder
        return np.ascontiguousarray(lines).view(f"{order}u2").astype(np.uint16, copy=False)
    if bits == 12:
        groups = np.pad(lines, ((0, 0), (0, -lines.shape[1] % 3))).reshape(len(lines), -1, 3).astype(np.uint16)
        a, b, c = np.moveaxis(groups, 2, 0)
        parts: list[npt.NDArray[Any]] = [a << 4 | b >> 4, (b & 15) << 8 | c]
    else:
        parts = [lines >> shift & (1 << bits) - 1 for shift in range(8 - bits, -1, -bits)]
    return np.stack(parts, axis=2).reshape(len(lines), -1)[:, :count]


def _in_rgb_or_gray(page: TiffPage, samples: Samples) -> tuple[Samples, int]:
    bits, channels = int(page.bitspersample), samples.shape[2]
    gray = samples[..., 0]
    if bits < 8 and page.photometric != PHOTOMETRIC.PALETTE:
        gray, bits = (gray.astype(np.uint16) * 255 // (2**bits - 1)).astype(np.uint8), 8
    match page.photometric:
        case PHOTOMETRIC.MINISBLACK:
            return gray, bits
        case PHOTOMETRIC.MINISWHITE:
            return (2**bits - 1 - gray).astype(gray.dtype), bits
        case PHOTOMETRIC.PALETTE if page.colormap is not None and bits <= 8:
            # A colour map always has 16 bits.
            return np.moveaxis(page.colormap[:, gray] >> 8, 0, -1).astype(np.uint8), 8
        case PHOTOMETRIC.RGB if channels >= 3 and page.bitspersample >= 8:
            return samples[..., :3], bits
        case PHOTOMETRIC.SEPARATED if channels == 4 and bits == 8:
            return np.asarray(Image.fromarray(samples, "CMYK").convert("RGB")), 8
    name = getattr(page.photometric, "name", page.photometric)
    raise _unsupported(f"its colours are {name} with {channels} channels of {bits} bits")


def _unsupported(what: str) -> NotAnImage:
    return NotAnImage(what, ["TIFF in gray, RGB, CMYK or with a palette, 8 or 16 bits, without JPEG inside"])
