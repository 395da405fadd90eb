"""Write PNG files of every structure that the format allows, without an image library."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

SIGNATURE = b"\x89PNG\r\n\x1a\n"
GRAY, RGB, PALETTE, GRAY_ALPHA, RGB_ALPHA = 0, 2, 3, 4, 6
CHANNELS = {GRAY: 1, RGB: 3, PALETTE: 1, GRAY_ALPHA: 2, RGB_ALPHA: 4}
BIT_DEPTHS = {GRAY: (1, 2, 4, 8, 16), RGB: (8, 16), PALETTE: (1, 2, 4, 8), GRAY_ALPHA: (8, 16), RGB_ALPHA: (8, 16)}
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


def chunk(kind: bytes, body: bytes = b"") -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def ihdr(width: int, height: int, bits: int, colour: int, interlaced: bool = False) -> bytes:
    return chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, interlaced))


def write_png(
    samples: npt.NDArray[Any],
    bits: int,
    colour: int,
    *,
    palette: npt.NDArray[np.uint8] | None = None,
    interlaced: bool = False,
    filters: Sequence[int] = (0, 1, 2, 3, 4),
    before: Iterable[bytes] = (),
    after: Iterable[bytes] = (),
    pieces: int = 1,
    level: int = 6,
    trailing: bytes = b"",
) -> bytes:
    """Encode samples [H, W, C]; the filters alternate from row to row, and the data is divided over several chunks."""
    height, width = samples.shape[:2]
    raw = b"".join(_filtered(part, bits, filters) for part in _passes(samples, interlaced))
    stream = zlib.compress(raw, level)
    cuts = [len(stream) * number // pieces for number in range(pieces + 1)]
    return b"".join(
        [
            SIGNATURE,
            ihdr(width, height, bits, colour, interlaced),
            *before,
            b"" if palette is None else chunk(b"PLTE", palette.tobytes()),
            *(chunk(b"tRNS", bytes([0])) for _ in range(palette is not None)),
            *(chunk(b"IDAT", stream[begin:end]) for begin, end in pairwise(cuts)),
            *after,
            chunk(b"IEND"),
            trailing,
        ]
    )


def _passes(samples: npt.NDArray[Any], interlaced: bool) -> Iterator[npt.NDArray[Any]]:
    if not interlaced:
        yield samples
        return
    for left, top, step_x, step_y in _ADAM7:
        part = samples[top::step_y, left::step_x]
        if part.size:
            yield part


def _filtered(samples: npt.NDArray[Any], bits: int, filters: Sequence[int]) -> bytes:
    channels = samples.shape[2]
    unit = max(1, channels * bits // 8)
    packed = b""
    above = np.zeros(-(-samples.shape[1] * channels * bits // 8), np.int64)
    for number, row in enumerate(samples.reshape(len(samples), -1)):
        line = _packed(row, bits).astype(np.int64)
        left = np.concatenate([np.zeros(unit, np.int64), line[:-unit]]) if len(line) > unit else np.zeros_like(line)
        corner = np.concatenate([np.zeros(unit, np.int64), above[:-unit]]) if len(line) > unit else np.zeros_like(line)
        kind = filters[number % len(filters)]
        estimate = left + above - corner
        distances = np.abs(np.stack([estimate - left, estimate - above, estimate - corner]))
        paeth = np.choose(distances.argmin(axis=0), [left, above, corner])
        predicted = [np.zeros_like(line), left, above, (left + above) // 2, paeth][kind]
        packed += bytes([kind]) + ((line - predicted) % 256).astype(np.uint8).tobytes()
        above = line
    return packed


def _packed(row: npt.NDArray[Any], bits: int) -> npt.NDArray[np.uint8]:
    if bits == 16:
        return np.frombuffer(row.astype(">u2").tobytes(), np.uint8)
    if bits == 8:
        return row.astype(np.uint8)
    binary = (row[:, None] >> np.arange(bits - 1, -1, -1)) & 1
    return np.packbits(binary.astype(np.uint8).reshape(-1))
