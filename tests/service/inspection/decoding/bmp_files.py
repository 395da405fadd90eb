"""Write bitmaps (BMP) of every version, without an image library."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import numpy.typing as npt

UInt8Image = npt.NDArray[np.uint8]
Masks = tuple[int, int, int]
MASKS: tuple[tuple[int, Masks], ...] = (
    (16, (0xF800, 0x07E0, 0x001F)),
    (16, (0x7C00, 0x03E0, 0x001F)),
    (16, (0x0F00, 0x00F0, 0x000F)),
    (32, (0xFF0000, 0x00FF00, 0x0000FF)),
    (32, (0x0000FF, 0x00FF00, 0xFF0000)),
    (32, (0xFF000000, 0x00FF0000, 0x0000FF00)),
    (32, (0x3FF00000, 0x000FFC00, 0x000003FF)),
)


def pixels(
    rng: np.random.Generator, width: int, height: int, bits: int
) -> tuple[npt.NDArray[Any], UInt8Image, UInt8Image | None]:
    """Return pixel values [H, W], the pixels they mean, and the palette."""
    if bits <= 8:
        palette = rng.integers(0, 256, (2**bits, 3), np.uint8)
        indices = np.repeat(rng.integers(0, 2**bits, (height, -(-width // 3))), 3, axis=1)[:, :width]
        return indices, palette[indices], palette
    if bits == 16:
        values, expected = fields(rng, width, height, 16, (0x7C00, 0x03E0, 0x001F))
        return values, expected, None
    colours = rng.integers(0, 256, (height, width, 3), np.uint8)
    wide = colours.astype(np.int64)
    values = wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2]
    if bits == 32:
        values |= rng.integers(0, 256, (height, width)) << 24
    return values, colours, None


def fields(
    rng: np.random.Generator, width: int, height: int, bits: int, masks: Masks
) -> tuple[npt.NDArray[Any], UInt8Image]:
    """Return pixel values that consist of bit fields, and the pixels they mean."""
    values = rng.integers(0, 2**bits, (height, width))
    channels = []
    for mask in masks:
        shift = (mask & -mask).bit_length() - 1
        largest = mask >> shift
        channel = values >> shift & largest
        channels.append(channel * 255 // largest if largest <= 255 else channel * 256 // (largest + 1))
    return values, np.stack(channels, axis=2).astype(np.uint8)


def write_bmp(
    values: npt.NDArray[Any],
    bits: int,
    header: int,
    *,
    palette: UInt8Image | None = None,
    top_down: bool = False,
    masks: Masks | None = None,
) -> bytes:
    """Encode pixel values [H, W] without compression."""
    height, width = values.shape
    rows = values if top_down else values[::-1]
    if bits >= 8:
        columns = [(rows >> 8 * byte & 255).astype(np.uint8) for byte in range(bits // 8)]
        lines = np.stack(columns, axis=2).reshape(height, -1)
    else:
        binary = (rows[..., None] >> np.arange(bits - 1, -1, -1)) & 1
        lines = np.packbits(binary.astype(np.uint8).reshape(height, -1), axis=1)
    body = np.pad(lines, ((0, 0), (0, -lines.shape[1] % 4))).tobytes()
    signed = -height if top_down else height
    return _file(width, signed, bits, header, body, palette=palette, masks=masks, compression=3 if masks else 0)


def write_rle(rng: np.random.Generator, indices: npt.NDArray[Any], bits: int, palette: UInt8Image | None) -> bytes:
    """Encode palette indices with runs and literals of random lengths."""
    height, width = indices.shape
    code = b""
    for row in indices[::-1].astype(np.uint8):
        at = 0
        while at < width:
            same = 1
            while at + same < width and same < 255 and row[at + same] == row[at]:
                same += 1
            literal = min(width - at, int(rng.integers(3, 20)))
            if literal >= 3 and rng.integers(3) == 0:
                part = row[at : at + literal]
                packed = part if bits == 8 else np.packbits(np.unpackbits(part[:, None], axis=1)[:, 4:].reshape(-1))
                code += bytes([0, literal]) + packed.tobytes() + bytes(len(packed) % 2)
                at += literal
            else:
                code += bytes([same, row[at] if bits == 8 else row[at] << 4 | row[at]])
                at += same
        code += b"\x00\x00"
    return _file(width, height, bits, 40, code + b"\x00\x01", palette=palette, compression=1 if bits == 8 else 2)


def _file(
    width: int,
    height: int,
    bits: int,
    header: int,
    body: bytes,
    *,
    palette: UInt8Image | None = None,
    masks: Masks | None = None,
    compression: int = 0,
) -> bytes:
    colours = b""
    if palette is not None:
        entries = palette[:, ::-1] if header == 12 else np.pad(palette[:, ::-1], ((0, 0), (0, 1)))
        colours = np.ascontiguousarray(entries).tobytes()
    if header == 12:
        info = struct.pack("<IHHHH", 12, width, height, 1, bits)
    else:
        info = struct.pack("<IiiHHIIiiII", header, width, height, 1, bits, compression, len(body), 0, 0, 0, 0)
        info = (info[:16] if header == 16 else info) + struct.pack("<IIII", *(masks or (0, 0, 0)), 0) + bytes(header)
        info = info[:header] if header > 40 or masks is None else info[:52]
    at = 14 + len(info) + len(colours)
    return b"BM" + struct.pack("<IHHI", at + len(body), 0, 0, at) + info + colours + body
