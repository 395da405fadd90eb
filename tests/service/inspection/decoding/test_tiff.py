"""TIFF files as cameras and image tools write them, and malformed ones."""

import io
import struct
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tifffile
from PIL import Image

from service.inspection.decoding.decoder import ImageLimits, decode, read_header
from service.inspection.decoding.pixel_formats import PixelRules
from service.inspection.errors import CorruptImage, TooManyPixels, UnsupportedImage

LIMITS = ImageLimits()
RNG = np.random.default_rng(0)
GRAY16 = RNG.integers(0, 65536, (37, 50), np.uint16)
RGB16 = RNG.integers(0, 65536, (37, 50, 3), np.uint16)
RGB8 = RNG.integers(0, 256, (37, 50, 3), np.uint8)


def tiff(image: npt.NDArray[Any], **options: Any) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, image, **options)
    return buffer.getvalue()


def libtiff(image: Image.Image, **options: Any) -> bytes:
    """Write the image with libtiff, which most image tools use and which supports LZW."""
    buffer = io.BytesIO()
    image.save(buffer, "TIFF", **options)
    return buffer.getvalue()


def as_rgb(gray: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    return np.repeat(gray.astype(np.uint8)[..., None], 3, axis=2)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"byteorder": ">"},
        {"bigtiff": True},
        {"rowsperstrip": 5},
        {"tile": (16, 32)},
        {"compression": "zlib"},
        {"compression": "zlib", "predictor": True},
        {"compression": "zlib", "predictor": True, "byteorder": ">", "rowsperstrip": 8},
        {"compression": "zlib", "tile": (16, 16)},
        {"extratags": [(274, 3, 1, 6, True)]},  # orientation "rotate by 90 degrees": ignored
    ],
)
@pytest.mark.parametrize("depth", [8, 16])
def test_layouts_and_compressions_give_the_same_pixels(options: dict[str, Any], depth: int) -> None:
    gray = GRAY16 if depth == 16 else (GRAY16 >> 8).astype(np.uint8)
    colour = RGB16 if depth == 16 else (RGB16 >> 8).astype(np.uint8)

    np.testing.assert_array_equal(decode(tiff(gray, **options), LIMITS), as_rgb(GRAY16 >> 8))
    np.testing.assert_array_equal(decode(tiff(colour, photometric="rgb", **options), LIMITS), RGB16 >> 8)


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "tiff_deflate", "packbits", None])
@pytest.mark.parametrize("predictor", [1, 2])
def test_files_of_libtiff_are_read(compression: str | None, predictor: int) -> None:
    options: dict[str, Any] = {"compression": compression}
    if compression in {"tiff_lzw", "tiff_adobe_deflate", "tiff_deflate"}:
        options["tiffinfo"] = {317: predictor}
    data = libtiff(Image.fromarray(RGB8), **options)

    np.testing.assert_array_equal(decode(data, LIMITS), RGB8)
    data = libtiff(Image.fromarray(GRAY16), **options)
    np.testing.assert_array_equal(decode(data, LIMITS), as_rgb(GRAY16 >> 8))


def test_separate_planes_are_combined() -> None:
    data = tiff(np.ascontiguousarray(np.moveaxis(RGB16, 2, 0)), photometric="rgb", planarconfig="separate")
    np.testing.assert_array_equal(decode(data, LIMITS), RGB16 >> 8)


def test_transparency_is_dropped() -> None:
    rgba = np.concatenate([RGB8, np.full((37, 50, 1), 7, np.uint8)], axis=2)
    data = tiff(rgba, photometric="rgb", extrasamples=["unassalpha"])
    np.testing.assert_array_equal(decode(data, LIMITS), RGB8)


def test_white_is_zero_is_inverted() -> None:
    data = tiff(GRAY16, photometric="miniswhite")
    np.testing.assert_array_equal(decode(data, LIMITS), as_rgb((65535 - GRAY16) >> 8))


def test_bilevel_images_are_black_and_white() -> None:
    stripes = np.zeros((8, 20), bool)
    stripes[:, ::3] = True
    decoded = decode(libtiff(Image.fromarray(stripes)), LIMITS)
    np.testing.assert_array_equal(decoded, as_rgb(stripes * 255))


def test_palette_and_cmyk_are_converted() -> None:
    palette = Image.fromarray(RGB8).quantize(16)
    np.testing.assert_array_equal(decode(libtiff(palette), LIMITS), np.asarray(palette.convert("RGB")))
    assert decode(libtiff(Image.new("CMYK", (8, 8), (0, 0, 0, 0))), LIMITS).min() == 255


def test_twelve_packed_bits_are_reduced_over_their_own_range() -> None:
    # 0x123, 0xFFF and 0x800 in the first line, the most significant bit first; a line begins with a byte.
    lines = bytes.fromhex("123fff8000") + bytes.fromhex("0000000000")
    data = _plain_tiff(lines, width=3, height=2, bits=12)
    assert decode(data, LIMITS)[..., 0].tolist() == [[0x12, 0xFF, 0x80], [0, 0, 0]]


def test_declared_bit_depth_holds_for_tiff() -> None:
    twelve = np.array([[0, 0x800, 0xFFF, 0x1000]], np.uint16)
    assert decode(tiff(twelve), LIMITS, PixelRules(bit_depth=12))[0, :, 0].tolist() == [0, 128, 255, 255]


def test_only_the_first_page_is_read() -> None:
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as writer:
        writer.write(GRAY16)
        writer.write(np.zeros((4, 4), np.uint16))
    assert decode(buffer.getvalue(), LIMITS).shape == (37, 50, 3)


@pytest.mark.parametrize("tag", [(256, 100_000), (257, 100_000)])
def test_size_in_the_header_is_refused_before_decoding(tag: tuple[int, int]) -> None:
    data = _plain_tiff(bytes(4096), width=64, height=64, bits=8, changes=dict([tag]))
    with pytest.raises(TooManyPixels):
        decode(data, ImageLimits(max_pixels=1_000_000))


def test_tile_far_larger_than_the_image_is_refused() -> None:
    changes = {322: 1 << 20, 323: 1 << 20, 324: 8, 325: 4096}
    data = _plain_tiff(bytes(4096), width=64, height=64, bits=8, changes=changes)
    with pytest.raises(TooManyPixels):
        decode(data, LIMITS)


def test_strip_that_inflates_beyond_its_size_is_cut_off() -> None:
    # A deflate bomb: 16 KiB that inflate to 16 MiB, in an image with a small size in its header.
    data = bytearray(tiff(np.zeros((4096, 4096), np.uint8), compression="zlib", rowsperstrip=4096))
    height = tifffile.TiffFile(io.BytesIO(data)).pages.first.tags["ImageLength"].valueoffset
    data[height : height + 4] = struct.pack("<I", 16)
    assert decode(bytes(data), LIMITS).shape == (16, 4096, 3)


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("keep", [0.2, 0.6, 0.95])
def test_truncated_file_is_refused(compression: str | None, keep: float) -> None:
    data = tiff(RGB8, photometric="rgb", compression=compression, rowsperstrip=10)
    with pytest.raises(CorruptImage):
        decode(data[: int(len(data) * keep)], LIMITS)


def test_compressed_strip_that_ends_early_is_detected() -> None:
    data = libtiff(Image.fromarray(RGB8), compression="tiff_lzw")
    page = tifffile.TiffFile(io.BytesIO(data)).pages.first
    short = bytearray(data)
    offset, count = page.dataoffsets[0], page.databytecounts[0]
    short[offset + count // 2 : offset + count] = bytes(count - count // 2)
    with pytest.raises(CorruptImage):
        decode(bytes(short), LIMITS)


def test_missing_strip_is_an_error_and_not_black() -> None:
    data = tiff(RGB8, photometric="rgb", rowsperstrip=10)
    page = tifffile.TiffFile(io.BytesIO(data)).pages.first
    tag = page.tags["StripByteCounts"]
    damaged = bytearray(data)
    damaged[tag.valueoffset : tag.valueoffset + 4] = bytes(4)
    with pytest.raises(CorruptImage, match="missing"):
        decode(bytes(damaged), LIMITS)


@pytest.mark.parametrize(
    ("image", "options", "reason"),
    [
        (np.ones((8, 8), np.float32), {}, "32 bits IEEEFP"),
        (np.ones((8, 8), np.int16), {}, "16 bits INT"),
        (np.ones((8, 8), np.uint32), {}, "32 bits"),
        (np.ones((4, 8, 8), np.uint8), {"volumetric": True, "photometric": "minisblack"}, "layers"),
        (np.ones((8, 8), np.uint8), {"compression": "lzma"}, "compression is LZMA"),
        (np.ones((8, 8), np.uint8), {"photometric": "cfa"}, "CFA"),
    ],
)
def test_unsupported_feature_is_named(image: npt.NDArray[Any], options: dict[str, Any], reason: str) -> None:
    with pytest.raises(UnsupportedImage, match=reason):
        decode(tiff(image, **options), LIMITS)


def test_size_is_read_without_decoding() -> None:
    header = read_header(tiff(GRAY16))
    assert (header.media_type, header.width, header.height) == ("image/tiff", 50, 37)


def _plain_tiff(pixels: bytes, *, width: int, height: int, bits: int, changes: dict[int, int] | None = None) -> bytes:
    """Build a TIFF with one gray strip, tag by tag; `changes` overwrites and adds tags."""
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: 1, 273: 8, 277: 1, 278: height, 279: len(pixels)}
    tags |= changes or {}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
    return b"II*\x00" + struct.pack("<I", 8 + len(pixels)) + pixels + struct.pack("<H", len(tags)) + entries + bytes(4)
