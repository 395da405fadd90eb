"""Decode Windows and OS/2 bitmaps (BMP).

All versions of the header are read. Palettes, RGB, bit fields and run-length encoding are supported; bitmaps that embed
a JPEG, a PNG or OS/2 codes are not. Transparency is dropped. Nothing outside the pixels has to be correct, but every
pixel must be in the file: a run-length code that leaves out pixels is refused.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from service.inspection.decoding.formats import BMP, check_size
from service.inspection.decoding.samples import Samples
from service.inspection.errors import CorruptImage, ImageTooComplex, UnsupportedImage

_FILE_HEADER_BYTES = 14
_CORE, _INFO, _OS2 = 12, 40, 64
_HEADER_BYTES = (_CORE, 16, _INFO, 52, 56, _OS2, 108, 124)
_NONE, _RLE8, _RLE4, _FIELDS, _ALPHA_FIELDS = 0, 1, 2, 3, 6
_BITS = (1, 2, 4, 8, 16, 24, 32)
_DEFAULT_MASKS = {16: (0x7C00, 0x03E0, 0x001F), 32: (0xFF0000, 0x00FF00, 0x0000FF)}
_MAX_ESCAPES = 150_000  # of run-length encoding


@dataclass(frozen=True)
class _Header:
    """The headers of a bitmap.

    Attributes:
        width: Width in pixels.
        height: Height in pixels.
        top_down: Whether the first row in the file is the upper one.
        bits: Bits of a pixel.
        compression: One of the values of the format.
        masks: Bits of red, green and blue in a pixel.
        palette: uint8 [N, 3] RGB.
        pixels_at: Offset of the pixels.
    """

    width: int
    height: int
    top_down: bool
    bits: int
    compression: int
    masks: tuple[int, ...]
    palette: npt.NDArray[np.uint8]
    pixels_at: int


def read_size(data: bytes) -> tuple[int, int]:
    """Return width and height.

    Raises:
        CorruptImage, UnsupportedImage: The header is damaged or states an unsupported feature.
    """
    header = _parse(data)
    return header.width, header.height


def read_samples(data: bytes, max_pixels: int) -> tuple[Samples, int]:
    """Decode the bitmap.

    Colours of bit fields with less than 8 bits are expanded to 8.

    Returns:
        Samples, uint8 or uint16 [H, W, 3] RGB, and their number of bits.

    Raises:
        TooManyPixels, ImageTooComplex: A limit is exceeded; nothing was decoded.
        UnsupportedImage: The bitmap uses an unsupported feature.
        CorruptImage: The bitmap is truncated or damaged.
    """
    header = _parse(data)
    check_size(header.width, header.height, max_pixels)
    if header.compression in (_RLE8, _RLE4):
        rows = _expand_runs(data[header.pixels_at :], header)
        samples, bits = _colours(rows, header), 8
    else:
        samples, bits = _read_rows(data, header)
    return samples if header.top_down else samples[::-1], bits


def _parse(data: bytes) -> _Header:
    if len(data) < _FILE_HEADER_BYTES + _CORE:
        raise _truncated()
    (pixels_at,), (size,) = struct.unpack_from("<I", data, 10), struct.unpack_from("<I", data, 14)
    if size not in _HEADER_BYTES:
        raise UnsupportedImage(BMP, f"it has an unknown header of {size} bytes")
    if len(data) < _FILE_HEADER_BYTES + size:
        raise _truncated()
    compression, colours, top_down = _NONE, 0, False
    if size == _CORE:
        width, height, _, bits = struct.unpack_from("<HHHH", data, 18)
    else:
        width, height, _, bits = struct.unpack_from("<iiHH", data, 18)
        top_down, height = height < 0, abs(height)
        if size >= _INFO:
            (compression,), (colours,) = struct.unpack_from("<I", data, 30), struct.unpack_from("<I", data, 46)
    if width < 1 or height < 1:
        raise CorruptImage(BMP, f"its header states {width} x {height} pixels")
    _check_feature(size, bits, compression, top_down)
    after_header = _FILE_HEADER_BYTES + size
    masks: tuple[int, ...] = _DEFAULT_MASKS.get(bits, ())
    if compression in (_FIELDS, _ALPHA_FIELDS):
        if len(data) < _FILE_HEADER_BYTES + 52:
            raise _truncated()
        masks = struct.unpack_from("<III", data, _FILE_HEADER_BYTES + _INFO)
        if size == _INFO:
            after_header += 12 if compression == _FIELDS else 16
    if not after_header <= pixels_at < len(data):
        raise CorruptImage(BMP, "its header states a wrong position of the pixels")
    palette = _read_palette(data, size, bits, colours, after_header, pixels_at)
    return _Header(width, height, top_down, bits, compression, masks, palette, pixels_at)


def _check_feature(size: int, bits: int, compression: int, top_down: bool) -> None:
    expected = {
        _NONE: _BITS,
        _RLE8: (8,),
        _RLE4: (4,),
        _FIELDS: (16, 32) if size != _OS2 else (),  # in OS/2 bitmaps the values mean other codes
        _ALPHA_FIELDS: (16, 32) if size != _OS2 else (),
    }
    if bits not in expected.get(compression, ()):
        raise UnsupportedImage(BMP, f"it has {bits} bits per pixel with the compression type {compression}")
    if top_down and compression in (_RLE8, _RLE4):
        raise UnsupportedImage(BMP, "it is run-length encoded from top to bottom")


def _read_palette(data: bytes, size: int, bits: int, colours: int, begin: int, end: int) -> npt.NDArray[np.uint8]:
    """Return the palette, uint8 [N, 3] RGB; empty for an image without palette."""
    if bits > 8:
        return np.empty((0, 3), np.uint8)
    entry = 3 if size == _CORE else 4
    stated = min(colours or 2**bits, 2**bits, (end - begin) // entry)
    entries = np.frombuffer(data, np.uint8, stated * entry, begin).reshape(-1, entry)
    return np.ascontiguousarray(entries[:, 2::-1])


def _read_rows(data: bytes, header: _Header) -> tuple[Samples, int]:
    """Return the pixels of an uncompressed bitmap in the order of the file."""
    row_bytes = -(-header.width * header.bits // 8)
    stride = -(-row_bytes // 4) * 4
    needed = stride * (header.height - 1) + row_bytes
    body = data[header.pixels_at : header.pixels_at + needed]
    if len(body) < needed:
        raise _truncated()
    rows = np.frombuffer(body + bytes(stride - row_bytes), np.uint8).reshape(header.height, stride)[:, :row_bytes]
    if header.bits <= 8:
        shifts = range(8 - header.bits, -1, -header.bits)
        unpacked = [rows >> shift & (1 << header.bits) - 1 for shift in shifts]
        return _colours(np.stack(unpacked, axis=2).reshape(header.height, -1)[:, : header.width], header), 8
    if header.bits == 24:
        return np.asarray(cv2.cvtColor(rows.reshape(header.height, header.width, 3), cv2.COLOR_BGR2RGB), np.uint8), 8
    if header.bits == 32 and header.masks == _DEFAULT_MASKS[32]:
        return np.asarray(cv2.cvtColor(rows.reshape(header.height, header.width, 4), cv2.COLOR_BGRA2RGB), np.uint8), 8
    return _split_fields(np.ascontiguousarray(rows).view(f"<u{header.bits // 8}"), header)


def _split_fields(pixels: npt.NDArray[Any], header: _Header) -> tuple[Samples, int]:
    """Return the channels of pixels that consist of bit fields."""
    shifts = [(mask & -mask).bit_length() - 1 for mask in header.masks]
    largest = [mask >> shift if mask else 0 for mask, shift in zip(header.masks, shifts, strict=True)]
    red, green, blue = header.masks
    contiguous = all(value and not value & (value + 1) for value in largest)
    if not contiguous or red & green or red & blue or green & blue or max(header.masks) >> header.bits:
        raise CorruptImage(BMP, "its bit masks are damaged")
    bits = max(value.bit_length() for value in largest)
    channels = [pixels >> shift & value for shift, value in zip(shifts, largest, strict=True)]
    if bits <= 8:
        scaled = [channel.astype(np.uint16) * 255 // value for channel, value in zip(channels, largest, strict=True)]
        return np.stack(scaled, axis=2).astype(np.uint8), 8
    if len(set(largest)) > 1 or bits > 16:
        raise UnsupportedImage(BMP, "its colours have different numbers of bits, or more than 16")
    return np.stack(channels, axis=2).astype(np.uint16), bits


def _colours(indices: npt.NDArray[Any], header: _Header) -> Samples:
    if (last := int(indices.max())) >= len(header.palette):
        raise CorruptImage(BMP, f"a pixel has the colour {last} of a palette of {len(header.palette)}")
    return np.asarray(header.palette[indices], np.uint8)


def _expand_runs(codes: bytes, header: _Header) -> npt.NDArray[np.uint8]:
    """Return the palette indices of a run-length encoded bitmap, uint8 [H, W]."""
    four_bits = header.compression == _RLE4
    codes = codes[: len(codes) // 2 * 2]
    pairs = np.frombuffer(codes, np.uint8).reshape(-1, 2)
    escapes = np.flatnonzero(pairs[:, 0] == 0)
    rows: list[npt.NDArray[np.uint8]] = []
    row: list[npt.NDArray[np.uint8]] = []
    at = 0
    for _ in range(_MAX_ESCAPES):
        following = int(np.searchsorted(escapes, at))
        escape = int(escapes[following]) if following < len(escapes) else len(pairs)
        if escape > at:
            runs = pairs[at:escape]
            if int(runs[:, 0].sum(dtype=np.int64)) > header.width:
                raise CorruptImage(BMP, "its run-length code has a row that is too long")
            row.append(_repeat(runs, four_bits))
        if escape == len(pairs):
            if row:
                rows.append(_whole_row(row, header.width))
            if len(rows) < header.height:
                raise _truncated()
            break
        kind, at = int(pairs[escape, 1]), escape + 1
        if kind <= 1:  # end of line, end of bitmap
            if kind == 0 or row:
                rows.append(_whole_row(row, header.width))
            row = []
            if kind == 1:
                break
        elif kind == 2:
            raise CorruptImage(BMP, "its run-length code leaves out pixels")
        else:
            words = -(-kind // (4 if four_bits else 2))
            literal = pairs[at : at + words].reshape(-1)
            if len(literal) < 2 * words:
                raise _truncated()
            row.append(_nibbles(literal)[:kind] if four_bits else literal[:kind])
            at += words
            if len(row) > header.width:
                raise CorruptImage(BMP, "its run-length code has a row that is too long")
        if len(rows) > header.height:
            break
    else:
        raise ImageTooComplex(BMP, f"it has more than {_MAX_ESCAPES} run-length escapes")
    if len(rows) != header.height:
        raise CorruptImage(BMP, "its run-length code does not have the number of rows that its header states")
    return np.stack(rows)


def _repeat(runs: npt.NDArray[np.uint8], four_bits: bool) -> npt.NDArray[np.uint8]:
    """Expand runs, uint8 [N, 2] of lengths and values."""
    lengths, values = runs[:, 0], runs[:, 1]
    if not four_bits:
        return np.repeat(values, lengths)
    # A run alternates between the upper and the lower half of its value.
    upper = np.repeat(values >> 4, lengths)
    lower = np.repeat(values & 15, lengths)
    begins = np.repeat(np.cumsum(lengths, dtype=np.int64) - lengths, lengths)
    return np.where((np.arange(len(upper)) - begins) % 2 == 0, upper, lower)


def _nibbles(packed: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    return np.stack([packed >> 4, packed & 15], axis=1).reshape(-1)


def _whole_row(pieces: list[npt.NDArray[np.uint8]], width: int) -> npt.NDArray[np.uint8]:
    row = np.concatenate(pieces) if pieces else np.empty(0, np.uint8)
    if len(row) != width:
        raise CorruptImage(BMP, f"its run-length code has a row of {len(row)} instead of {width} pixels")
    return row


def _truncated() -> CorruptImage:
    return CorruptImage(BMP, "its last bytes are missing")
