"""The structure of PNG files is verified, and what is stated in them is obeyed."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence

import numpy as np
import pytest

from service.inspection.decoding import png
from service.inspection.decoding.decoder import ImageLimits, decode, read_header
from service.inspection.errors import CorruptImage, ImageTooComplex, UnsupportedImage
from tests.service.inspection.decoding.png_files import (
    GRAY,
    PALETTE,
    RGB,
    RGB_ALPHA,
    SIGNATURE,
    chunk,
    ihdr,
    write_png,
)

LIMITS = ImageLimits()
SAMPLES = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)
RAW = b"".join(b"\0" + row.tobytes() for row in SAMPLES)
STREAM = zlib.compress(RAW)
HEADER, DATA, END = ihdr(5, 4, 8, RGB), chunk(b"IDAT", STREAM), chunk(b"IEND")


def assemble(*chunks: bytes) -> bytes:
    return SIGNATURE + b"".join(chunks)


def test_plain_file_is_read() -> None:
    np.testing.assert_array_equal(decode(assemble(HEADER, DATA, END), LIMITS), SAMPLES)


@pytest.mark.parametrize("kind", [b"IHDR", b"IDAT", b"tEXt", b"IEND"])
def test_checksum_of_every_chunk_is_verified(kind: bytes) -> None:
    data = bytearray(assemble(HEADER, chunk(b"tEXt", b"a\0b"), DATA, END))
    at = data.index(kind) + 4 + int.from_bytes(data[data.index(kind) - 4 : data.index(kind)], "big")
    data[at] ^= 1
    with pytest.raises(CorruptImage, match=f"checksum of its chunk {kind.decode()}"):
        decode(bytes(data), LIMITS)


def test_checksum_of_the_stream_is_verified() -> None:
    broken = STREAM[:-1] + bytes([STREAM[-1] ^ 1])
    with pytest.raises(CorruptImage, match="compressed image data"):
        decode(assemble(HEADER, chunk(b"IDAT", broken), END), LIMITS)


@pytest.mark.parametrize(
    "chunks",
    [
        (DATA, HEADER, END),
        (HEADER, HEADER, DATA, END),
        (HEADER, END),
        (HEADER, DATA),
        (HEADER, chunk(b"IDAT", STREAM[:9]), chunk(b"tEXt", b"a\0b"), chunk(b"IDAT", STREAM[9:]), END),
        (HEADER, chunk(b"IDAT", STREAM[:9]), END),
        (HEADER, chunk(b"IDAT", zlib.compress(RAW[:-1])), END),
        (HEADER, chunk(b"IDAT", zlib.compress(RAW + b"\0")), END),
        (HEADER, chunk(b"IDAT", zlib.compress(b"\7" + RAW[1:])), END),
        (HEADER, DATA, chunk(b"PLTE", bytes(3)), END),
        (ihdr(0, 4, 8, RGB), DATA, END),
        (ihdr(5, 4, 4, RGB), DATA, END),
        (ihdr(5, 4, 8, 5), DATA, END),
        (ihdr(5, 3, 8, RGB), DATA, END),
        (ihdr(5, 5, 8, RGB), DATA, END),
        (chunk(b"IHDR", bytes(12)), DATA, END),
        (HEADER, chunk(b"a1cD"), DATA, END),
    ],
)
def test_inconsistent_structure_is_refused(chunks: Sequence[bytes]) -> None:
    with pytest.raises(CorruptImage):
        decode(assemble(*chunks), LIMITS)


@pytest.mark.parametrize(
    "chunks",
    [
        (HEADER, chunk(b"NEWx"), DATA, END),
        (chunk(b"CgBI", bytes(4)), HEADER, DATA, END),
        (chunk(b"IHDR", struct.pack(">IIBBBBB", 5, 4, 8, 2, 1, 0, 0)), DATA, END),
        (chunk(b"IHDR", struct.pack(">IIBBBBB", 5, 4, 8, 2, 0, 0, 2)), DATA, END),
    ],
)
def test_unknown_features_are_unsupported_and_not_corrupt(chunks: Sequence[bytes]) -> None:
    with pytest.raises(UnsupportedImage):
        decode(assemble(*chunks), LIMITS)


def test_colour_outside_the_palette_is_refused() -> None:
    indices = np.array([[[0], [1], [2]]])
    palette = np.array([[9, 8, 7], [6, 5, 4], [3, 2, 1]], np.uint8)
    assert decode(write_png(indices, 2, PALETTE, palette=palette), LIMITS)[0].tolist() == palette.tolist()
    with pytest.raises(CorruptImage, match="colour 2 of a palette of 2"):
        decode(write_png(indices, 2, PALETTE, palette=palette[:2]), LIMITS)
    with pytest.raises(CorruptImage, match="palette"):
        decode(assemble(ihdr(1, 1, 8, PALETTE), chunk(b"IDAT", zlib.compress(b"\0\0")), END), LIMITS)


def test_stored_colours_of_transparent_pixels_are_used() -> None:
    rgba = np.array([[[10, 20, 30, 0], [40, 50, 60, 255]]], np.uint8)
    assert decode(write_png(rgba, 8, RGB_ALPHA), LIMITS)[0].tolist() == [[10, 20, 30], [40, 50, 60]]


@pytest.mark.parametrize(
    "before",
    [
        chunk(b"gAMA", struct.pack(">I", 100_000)),
        chunk(b"sRGB", b"\0"),
        chunk(b"sBIT", b"\5\5\5"),
        chunk(b"tRNS", struct.pack(">HHH", 0, 1, 2)),
        chunk(b"bKGD", bytes(6)),
        chunk(b"iCCP", b"x\0\0" + zlib.compress(b"no profile")),
    ],
)
def test_ancillary_chunks_change_no_pixel(before: bytes) -> None:
    np.testing.assert_array_equal(decode(assemble(HEADER, before, DATA, END), LIMITS), SAMPLES)


@pytest.mark.parametrize("default_image_is_a_frame", [False, True])
def test_default_image_of_an_animation_is_read(default_image_is_a_frame: bool) -> None:
    control = [chunk(b"fcTL", struct.pack(">IIIIIHHBB", n, 5, 4, 0, 0, 1, 10, 0, 0)) for n in range(2)]
    frame = chunk(b"fdAT", struct.pack(">I", 2) + zlib.compress(bytes(len(RAW))))
    animation = chunk(b"acTL", struct.pack(">II", 1 + default_image_is_a_frame, 0))
    first = control[:1] if default_image_is_a_frame else []
    data = assemble(HEADER, animation, *first, DATA, control[1], frame, END)
    np.testing.assert_array_equal(decode(data, LIMITS), SAMPLES)


def test_bytes_behind_the_end_are_ignored() -> None:
    np.testing.assert_array_equal(decode(assemble(HEADER, DATA, END, b"PK\3\4"), LIMITS), SAMPLES)


def test_one_byte_per_chunk_is_read_but_the_number_of_chunks_is_bounded() -> None:
    tiny = [chunk(b"IDAT", STREAM[at : at + 1]) for at in range(len(STREAM))]
    np.testing.assert_array_equal(decode(assemble(HEADER, *tiny, END), LIMITS), SAMPLES)
    with pytest.raises(ImageTooComplex):
        decode(assemble(HEADER, chunk(b"teSt") * 100_001, DATA, END), LIMITS)


def test_stream_that_inflates_beyond_the_size_is_stopped() -> None:
    bomb = zlib.compress(bytes(100_000_000))
    with pytest.raises(CorruptImage, match="longer than its header states"):
        decode(assemble(ihdr(5, 4, 8, GRAY), chunk(b"IDAT", bomb), END), LIMITS)


def test_size_is_in_the_first_chunk() -> None:
    header = read_header(assemble(HEADER))
    assert (header.width, header.height) == (5, 4)


def test_large_image_is_not_kept_twice_and_has_the_same_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    data = write_png(np.random.default_rng(0).integers(0, 256, (40, 30, 3)), 8, RGB, pieces=5)
    expected = decode(data, LIMITS)
    monkeypatch.setattr(png, "_MAX_KEPT_BYTES", 0)
    np.testing.assert_array_equal(decode(data, LIMITS), expected)
    with pytest.raises(CorruptImage):
        decode(data.replace(b"IEND", b"IENd"), LIMITS)
