"""Bitmaps and WebP files: structure, unsupported variants, damage."""

from __future__ import annotations

import io
import struct
import time
from typing import Any

import numpy as np
import pytest
from PIL import Image

from service.inspection.decoding.decoder import ImageLimits, decode, read_header
from service.inspection.errors import CorruptImage, ImageTooComplex, TooManyPixels, UnsupportedImage
from tests.service.inspection.decoding import bmp_files

LIMITS = ImageLimits()
RNG = np.random.default_rng(0)
VALUES, EXPECTED, PALETTE = bmp_files.pixels(RNG, 12, 8, 4)
BITMAP = bmp_files.write_bmp(VALUES, 4, 40, palette=PALETTE)


def changed(data: bytes, at: int, form: str, value: int) -> bytes:
    return data[:at] + struct.pack(form, value) + data[at + struct.calcsize(form) :]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (changed(BITMAP, 30, "<I", 4), "compression type 4"),  # a JPEG
        (changed(BITMAP, 30, "<I", 5), "compression type 5"),  # a PNG
        (changed(BITMAP, 30, "<I", 1), "compression type 1"),
        (changed(BITMAP, 28, "<H", 64), "64 bits"),
        (changed(BITMAP, 14, "<I", 39), "header of 39 bytes"),
        (changed(changed(BITMAP, 30, "<I", 2), 22, "<i", -8), "top to bottom"),
        (changed(bmp_files.write_bmp(VALUES & 1, 1, 64, palette=PALETTE), 30, "<I", 3), "compression type 3"),
    ],
)
def test_rare_bitmaps_are_unsupported_and_not_corrupt(data: bytes, reason: str) -> None:
    with pytest.raises(UnsupportedImage, match=reason):
        decode(data, LIMITS)


@pytest.mark.parametrize(
    "data",
    [
        changed(BITMAP, 18, "<i", 0),
        changed(BITMAP, 18, "<i", -12),
        changed(BITMAP, 22, "<i", 0),
        changed(BITMAP, 22, "<i", 9),
        changed(BITMAP, 10, "<I", 20),
        changed(BITMAP, 10, "<I", 1 << 30),
        changed(BITMAP, 46, "<I", 3),  # a pixel has a colour that the palette does not have
        BITMAP[:-3],
    ],
)
def test_inconsistent_bitmap_is_refused(data: bytes) -> None:
    with pytest.raises(CorruptImage):
        decode(data, LIMITS)


def test_unusual_fields_outside_the_pixels_are_accepted() -> None:
    for at, form in ((2, "<I"), (6, "<I"), (26, "<H"), (34, "<I"), (38, "<i"), (42, "<i"), (50, "<I")):
        np.testing.assert_array_equal(decode(changed(BITMAP, at, form, 7), LIMITS), EXPECTED)
    np.testing.assert_array_equal(decode(BITMAP + b"behind the end", LIMITS), EXPECTED)


@pytest.mark.parametrize("masks", [(0xFF, 0xFF, 0xFF00), (0, 0xFF00, 0xFF), (0xFF00FF, 0xFF00, 0xFF)])
def test_bit_masks_must_make_sense(masks: tuple[int, int, int]) -> None:
    values = RNG.integers(0, 1 << 24, (4, 4))
    with pytest.raises(CorruptImage, match="masks"):
        decode(bmp_files.write_bmp(values, 32, 40, masks=masks), LIMITS)


def rle(codes: bytes, width: int = 4, height: int = 2) -> bytes:
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(codes), 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 0, 0, 0, 54 + 1024) + header + bytes(range(256)) * 4 + codes


@pytest.mark.parametrize(
    "codes",
    [
        b"\x04\x01\x00\x00\x04\x02\x00\x01",
        b"\x04\x01\x00\x00\x04\x02\x00\x00\x00\x01",
        b"\x00\x04\x01\x02\x03\x04\x00\x00\x01\x05\x03\x06\x00\x01",
        b"\x00\x03\x01\x02\x03\x00\x01\x00\x00\x00\x04\x02\x00\x01",
    ],
)
def test_run_length_codes_are_read(codes: bytes) -> None:
    assert decode(rle(codes), LIMITS).shape == (2, 4, 3)


@pytest.mark.parametrize(
    ("codes", "error"),
    [
        (b"\x04\x01\x00\x01", CorruptImage),  # the second row is missing
        (b"\x04\x01\x00\x00\x03\x02\x00\x01", CorruptImage),  # a pixel is missing
        (b"\x05\x01\x00\x00\x04\x02\x00\x01", CorruptImage),
        (b"\x04\x01\x00\x00\x00\x02\x01\x00\x03\x02\x00\x01", CorruptImage),  # pixels are left out
        (b"\x04\x01\x00\x00\x04\x02\x00\x00\x04\x03\x00\x01", CorruptImage),
        (b"\x00\x04\x01", CorruptImage),
        (b"\x00\x00" * 600_000, CorruptImage),
        (b"\xff\x01" * 1_000_000, CorruptImage),
        (b"\x00\x03\x01\x02\x03\x00" * 600_000, CorruptImage),
    ],
)
def test_run_length_codes_that_leave_out_pixels_are_refused(codes: bytes, error: type[Exception]) -> None:
    started = time.perf_counter()
    with pytest.raises(error):
        decode(rle(codes), LIMITS)
    assert time.perf_counter() - started < 3


def test_number_of_run_length_escapes_is_limited() -> None:
    started = time.thread_time()  # whatever else the machine does
    with pytest.raises(ImageTooComplex):
        decode(rle(b"\x00\x03\x01\x02\x03\x00" * 600_000, width=1_800_000, height=1), LIMITS)
    assert time.thread_time() - started < 3


def test_size_of_a_bitmap_is_limited() -> None:
    with pytest.raises(TooManyPixels):
        decode(changed(changed(BITMAP, 18, "<i", 1 << 20), 22, "<i", 1 << 20), LIMITS)


def webp(**options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(EXPECTED).save(buffer, "WEBP", **{"lossless": True, **options})
    return buffer.getvalue()


def test_animation_is_unsupported() -> None:
    data = webp(save_all=True, append_images=[Image.new("RGB", (12, 8), (200, 0, 0))])
    for read in (lambda: decode(data, LIMITS), lambda: read_header(data)):
        with pytest.raises(UnsupportedImage, match="animated"):
            read()


def test_stored_colours_of_transparent_pixels_are_used() -> None:
    rgba = np.dstack([EXPECTED, np.zeros((8, 12), np.uint8)])
    buffer = io.BytesIO()
    Image.fromarray(rgba).save(buffer, "WEBP", lossless=True, exact=True)
    np.testing.assert_array_equal(decode(buffer.getvalue(), LIMITS), EXPECTED)


def test_chunks_around_the_image_are_skipped_but_must_be_whole() -> None:
    plain = webp()
    image = plain[12:]
    extended = struct.pack("<4sIB3x", b"VP8X", 10, 0) + (11).to_bytes(3, "little") + (7).to_bytes(3, "little")

    def riff(*chunks: bytes) -> bytes:
        body = b"WEBP" + b"".join(chunks)
        return b"RIFF" + struct.pack("<I", len(body)) + body

    unknown = b"XYZW" + struct.pack("<I", 3) + b"abc\0"
    np.testing.assert_array_equal(decode(riff(extended, unknown, image, unknown), LIMITS), EXPECTED)
    np.testing.assert_array_equal(decode(riff(image) + b"behind the end", LIMITS), EXPECTED)
    wrong_canvas = extended[:12] + (12).to_bytes(3, "little") + extended[15:]
    for data in (
        riff(image, image),
        riff(unknown),
        riff(extended),
        riff(wrong_canvas, image),
        riff(image)[:-1],
        riff(image, unknown)[:-2],
        riff(image[:4] + struct.pack("<I", 1 << 30) + image[8:]),
    ):
        with pytest.raises(CorruptImage):
            decode(data, LIMITS)
    with pytest.raises(ImageTooComplex):
        decode(riff(b"XYZW\0\0\0\0" * 10_001, image), LIMITS)
