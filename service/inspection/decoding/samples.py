"""Samples of camera buffers, and their reduction from any bit depth to the 8 bits that the graph takes.

One rule converts a sample to 8 bits: 0 up to the black level, 255 from the white level on, and between them
`(sample - black) * 256 // (white + 1 - black)`. Black and white level come from the recipe or from the number of bits,
never from the image: a dark image stays dark.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from service.inspection.decoding.pixel_formats import PixelRules, RawLayout
from service.inspection.errors import BufferSizeMismatch, PixelMismatch

Samples = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]
UInt8Image = npt.NDArray[np.uint8]

# OpenCV's older names (COLOR_BayerBG2RGB) refer to the second and third pixel of the second row. These names refer to
# the first two rows, as PFNC's names do.
_DEMOSAIC = {
    "RG": cv2.COLOR_BayerRGGB2RGB,
    "GR": cv2.COLOR_BayerGRBG2RGB,
    "GB": cv2.COLOR_BayerGBRG2RGB,
    "BG": cv2.COLOR_BayerBGGR2RGB,
}


def check_buffer(data: bytes, layout: RawLayout) -> None:
    """Check that a camera buffer has the size of its layout.

    Raises:
        BufferSizeMismatch: It does not.
    """
    if len(data) != layout.total_bytes:
        stride = layout.stride or layout.line_bytes
        raise BufferSizeMismatch(
            layout.pixel_format, layout.width, layout.height, stride, layout.total_bytes, len(data)
        )


def read_buffer(data: bytes, layout: RawLayout) -> Samples:
    """Read the samples of a camera buffer, in the sensor's bit depth.

    Args:
        data: The buffer.
        layout: Its layout.

    Returns:
        uint8 or uint16, [H, W] for Mono and [H, W, 3] RGB otherwise.

    Raises:
        BufferSizeMismatch: The size of the buffer does not match the layout.
    """
    check_buffer(data, layout)
    lines = np.frombuffer(data, np.uint8).reshape(layout.height, -1)[:, : layout.line_bytes]
    samples = _unpack(lines, layout)
    colour = layout.format.colour
    if colour in _DEMOSAIC:
        return _samples(cv2.demosaicing(np.ascontiguousarray(samples), _DEMOSAIC[colour]))
    return samples[..., ::-1] if colour == "bgr" else samples


def to_8_bit(samples: Samples, bits: int, rules: PixelRules) -> UInt8Image:
    """Reduce samples to 8 bits between black and white level.

    Args:
        samples: uint8 or uint16 of any shape.
        bits: Bits of a sample in the file or buffer, 8 to 16.
        rules: Declares the significant bits, and the black and the white level.

    Raises:
        PixelMismatch: The recipe declares more bits than the image has, or levels that do not fit its bits.
    """
    depth = rules.bit_depth or bits
    if depth > bits:
        raise PixelMismatch(f"its samples have {bits} bits, but the recipe declares a bit depth of {depth}")
    black, white = rules.black_level, 2**depth - 1 if rules.white_level is None else rules.white_level
    if white >= 2**depth or black >= white:
        raise PixelMismatch(f"black level {black} and white level {white} do not fit into samples of {depth} bits")
    if samples.dtype == np.uint8 and (black, white) == (0, 255):
        return np.asarray(samples, np.uint8)
    return np.asarray(np.take(_table(black, white, samples.dtype.itemsize), samples))


def _unpack(lines: UInt8Image, layout: RawLayout) -> Samples:
    """Convert lines of bytes [H, B] to samples [H, W] or [H, W, 3]."""
    form, width = layout.format, layout.width
    match form.packing:
        case "bytes":
            return lines.reshape(layout.height, width, 3) if form.colour in ("rgb", "bgr") else lines
        case "words":
            return np.ascontiguousarray(lines).view("<u2").astype(np.uint16, copy=False)
        case "gige":
            first, shared, second = _in_groups(lines, 3)
            low = form.bits - 8
            mask = (1 << low) - 1
            return _in_lines([first << low | shared & mask, second << low | shared >> 4 & mask], width)
        case "lsb" if form.bits == 12:
            a, b, c = _in_groups(lines, 3)
            return _in_lines([a | (b & 15) << 8, b >> 4 | c << 4], width)
        case "lsb":
            a, b, c, d, e = _in_groups(lines, 5)
            third, fourth = c >> 4 | (d & 63) << 4, d >> 6 | e << 2
            return _in_lines([a | (b & 3) << 8, b >> 2 | (c & 15) << 6, third, fourth], width)


def _in_groups(lines: UInt8Image, size: int) -> list[npt.NDArray[np.uint16]]:
    """Return the first, second, ... byte of every group of `size` bytes, each [H, groups].

    An incomplete last group is padded with zeros.
    """
    short = -lines.shape[1] % size
    whole = np.pad(lines, ((0, 0), (0, short))) if short else lines
    groups = whole.reshape(len(lines), -1, size)
    return [groups[..., index].astype(np.uint16) for index in range(size)]


def _in_lines(parts: Sequence[npt.NDArray[Any]], width: int) -> npt.NDArray[np.uint16]:
    """Interleave parts of samples, each [H, groups], to lines of samples."""
    return np.asarray(np.stack(parts, axis=2).reshape(len(parts[0]), -1)[:, :width], np.uint16)


def _samples(image: npt.NDArray[Any]) -> Samples:
    return np.asarray(image, np.uint8) if image.dtype == np.uint8 else np.asarray(image, np.uint16)


@lru_cache(maxsize=64)
def _table(black: int, white: int, sample_bytes: int) -> UInt8Image:
    """Return the 8-bit value of every possible sample."""
    samples = np.arange(256**sample_bytes, dtype=np.int64)
    between = np.clip((samples - black) * 256 // (white + 1 - black), 0, 255)
    return np.where(samples >= white, 255, between).astype(np.uint8)
