"""Damage files of every format: nothing but a refusal or an image may result, and no checksum may be ignored."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tifffile
from PIL import Image

from service.errors import PlumblineError
from service.inspection.decoding.decoder import ImageLimits, decode, read_header
from service.inspection.errors import CorruptImage, UnsupportedImage
from tests.service.inspection.decoding import bmp_files, png_files
from tests.service.inspection.decoding.differential import packed_tiff, textured

LIMITS = ImageLimits(max_pixels=1_000_000)
RNG = np.random.default_rng(0)
RGB = np.asarray(textured(RNG, 24, 20, 3, 8), np.uint8)


def pillow(kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(RGB).save(buffer, kind, **options)
    return buffer.getvalue()


def tiff(**options: Any) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, RGB, photometric="rgb", metadata=None, **options)
    return buffer.getvalue()


def bmp(bits: int) -> bytes:
    values, _, palette = bmp_files.pixels(RNG, 24, 20, bits)
    return bmp_files.write_bmp(values, bits, 40, palette=palette)


def rle(bits: int) -> bytes:
    values, _, palette = bmp_files.pixels(RNG, 24, 20, bits)
    return bmp_files.write_rle(RNG, values, bits, palette)


FILES: dict[str, bytes] = {
    "png": png_files.write_png(RGB, 8, png_files.RGB, pieces=3, after=[png_files.chunk(b"tEXt", b"Comment\0x")]),
    "png-16-interlaced": png_files.write_png(textured(RNG, 24, 20, 2, 16), 16, png_files.GRAY_ALPHA, interlaced=True),
    "png-palette": png_files.write_png(
        RNG.integers(0, 16, (20, 24, 1)), 4, png_files.PALETTE, palette=RNG.integers(0, 256, (16, 3), np.uint8)
    ),
    "jpeg": pillow("JPEG", quality=80),
    "jpeg-progressive": pillow("JPEG", quality=80, progressive=True),
    "jpeg-restart": pillow("JPEG", quality=80, restart_marker_blocks=1, subsampling="4:4:4"),
    "webp": pillow("WEBP"),
    "webp-lossless": pillow("WEBP", lossless=True),
    "webp-extended": pillow("WEBP", exif=Image.Exif().tobytes()),
    "tiff": tiff(rowsperstrip=3),
    "tiff-deflate": tiff(compression="zlib", predictor=True, rowsperstrip=3),
    "tiff-lzw-tiles": tiff(compression="lzw", tile=(16, 16)),
    "tiff-packbits": tiff(compression="packbits", bigtiff=True),
    "tiff-bits": packed_tiff(textured(RNG, 24, 20, 1, 4)[..., 0], 4, 1, 5),
    "bmp": bmp(24),
    "bmp-palette": bmp(4),
    "bmp-rle": rle(8),
    "bmp-rle4": rle(4),
}


def damaged(data: bytes, seed: int) -> Iterator[bytes]:
    """Yield copies with a bit flipped, bytes replaced, removed, repeated or inserted, or cut off."""
    rng = np.random.default_rng(seed)
    header = min(len(data), 200)
    for _ in range(120):
        # Half of the damage is in the header, where a wrong value does the most.
        at = int(rng.integers(header if rng.integers(2) else len(data)))
        yield data[:at] + bytes([data[at] ^ 1 << int(rng.integers(8))]) + data[at + 1 :]
    for _ in range(60):
        at, size = int(rng.integers(len(data))), int(rng.integers(1, 9))
        noise = rng.bytes(size)
        yield data[:at] + noise + data[at + size :]
        yield data[:at] + data[at + size :]
        yield data[:at] + data[at : at + size] + data[at:]
        yield data[:at] + (b"\xff" * size if rng.integers(2) else bytes(size)) + data[at + size :]
    for at in {*range(0, header, 3), *rng.integers(0, len(data), 60).tolist()}:
        yield data[:at]


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_damage_leads_to_an_image_or_a_refusal(name: str, caplog: pytest.LogCaptureFixture) -> None:
    original = decode(FILES[name], LIMITS)
    different = 0
    with caplog.at_level(logging.WARNING, logger="service.inspection.decoding"):
        for data in damaged(FILES[name], seed=1):
            with contextlib.suppress(PlumblineError):
                read_header(data)
            with contextlib.suppress(PlumblineError):
                result = decode(data, LIMITS)
                different += result.shape != original.shape or bool((result != original).any())
    assert not caplog.records, "the decoder refuses damage itself and does not rely on the catch-all"
    if name.startswith("png"):
        assert not different


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_every_truncation_is_refused(name: str) -> None:
    data = FILES[name]
    needed = {"bmp-rle": 5, "bmp-rle4": 5}.get(name, 1)  # the codes after the last pixel may be missing
    for size in range(12, len(data) - needed + 1):
        if name.startswith("tiff") and size > _last_pixel(data):
            break
        with pytest.raises(CorruptImage):
            decode(data[:size], LIMITS)


def _last_pixel(data: bytes) -> int:
    page = tifffile.TiffFile(io.BytesIO(data)).pages.first
    return max(offset + count for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True)) - 1


@pytest.mark.parametrize("name", [name for name in FILES if name.startswith("png")])
def test_every_single_bit_flip_of_a_png_is_refused(name: str) -> None:
    data = FILES[name]
    for at in range(8, len(data)):
        flipped = data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :]
        with pytest.raises((CorruptImage, UnsupportedImage)):
            decode(flipped, LIMITS)


def test_every_bit_flip_in_deflated_strips_is_refused() -> None:
    data = FILES["tiff-deflate"]
    page = tifffile.TiffFile(io.BytesIO(data)).pages.first
    original: npt.NDArray[np.uint8] = decode(data, LIMITS)
    for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True):
        for at in range(offset, offset + count):
            flipped = data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :]
            try:
                np.testing.assert_array_equal(decode(flipped, LIMITS), original)
            except CorruptImage:
                continue
