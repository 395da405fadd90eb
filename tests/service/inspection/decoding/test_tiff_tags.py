"""What a TIFF file states is obeyed; what it does not state is not guessed."""

from __future__ import annotations

import io
import struct
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tifffile

from service.inspection.decoding.decoder import ImageLimits, decode, read_header
from service.inspection.errors import CorruptImage, ImageTooComplex, TooManyPixels, UnsupportedImage

LIMITS = ImageLimits()
RGB = np.random.default_rng(0).integers(0, 256, (12, 10, 3), np.uint8)
GRAY = RGB[..., 0]
Tags = dict[int, Sequence[int]]


def tiff(
    pixels: bytes,
    changes: Mapping[int, Sequence[int] | None] | None = None,
    *,
    order: str = "<",
    pages: Sequence[Tags] = (),
) -> bytes:
    """Write one strip of 10 x 12 RGB pixels; `changes` replaces, adds and removes tags, `pages` come before."""
    tags: dict[int, Sequence[int] | None] = {
        256: [10], 257: [12], 258: [8, 8, 8], 259: [1], 262: [2], 273: [8], 277: [3], 278: [12], 279: [len(pixels)],
    }  # fmt: skip
    tags |= changes or {}
    directories: list[Tags] = [*pages, {tag: values for tag, values in tags.items() if values is not None}]
    data = (b"II*\0" if order == "<" else b"MM\0*") + bytes(4) + pixels
    link = 4
    for directory in directories:
        at = len(data) + len(data) % 2
        data = data.ljust(at, b"\0")
        data = data[:link] + struct.pack(order + "I", at) + data[link + 4 :]
        extra_at = at + 2 + 12 * len(directory) + 4
        entries, extra = b"", b""
        for tag, values in sorted(directory.items()):
            body = struct.pack(f"{order}{len(values)}I", *values)
            if len(values) > 1:
                place, extra = struct.pack(order + "I", extra_at + len(extra)), extra + body
            else:
                place = body
            entries += struct.pack(order + "HHI", tag, 4, len(values)) + place
        link = at + 2 + len(entries)
        data += struct.pack(order + "H", len(directory)) + entries + bytes(4) + extra
    return data


PIXELS = RGB.tobytes()
SMALL: Tags = {256: [2], 257: [2], 258: [8], 259: [1], 262: [1], 273: [8], 277: [1], 278: [2], 279: [4]}


@pytest.mark.parametrize("order", ["<", ">"])
def test_complete_file_is_read(order: str) -> None:
    np.testing.assert_array_equal(decode(tiff(PIXELS, order=order), LIMITS), RGB)


@pytest.mark.parametrize(
    ("tag", "name"),
    [
        (256, "ImageWidth"),
        (257, "ImageLength"),
        (258, "BitsPerSample"),
        (259, "Compression"),
        (262, "PhotometricInterpretation"),
        (273, "StripOffsets"),
        (277, "SamplesPerPixel"),
        (279, "StripByteCounts"),
    ],
)
def test_missing_tag_is_named(tag: int, name: str) -> None:
    with pytest.raises(UnsupportedImage, match=rf"tag {name} \({tag}\) is missing"):
        decode(tiff(PIXELS, {tag: None}), LIMITS)


def test_defaults_of_the_format_hold_where_the_size_confirms_them() -> None:
    bilevel = {256: [16], 257: [2], 262: [1], 258: None, 277: None, 278: None}
    assert decode(tiff(b"\xff\x00\x0f\xf0", bilevel), LIMITS)[0, :, 0].tolist() == [255] * 8 + [0] * 8
    gray = {262: [1], 258: [8], 277: None}
    np.testing.assert_array_equal(decode(tiff(GRAY.tobytes(), gray), LIMITS)[..., 0], GRAY)
    np.testing.assert_array_equal(decode(tiff(PIXELS, {258: [8], 278: None}), LIMITS), RGB)
    for changes, data in (
        ({262: [1], 277: [1], 258: None}, GRAY.tobytes()),  # eight bits, read as one
        ({262: [1], 277: None}, PIXELS),
        ({262: [1], 277: None, 258: [8]}, PIXELS),
        ({258: [8], 259: [32773]}, PIXELS),
    ):
        with pytest.raises(UnsupportedImage, match="is missing"):
            decode(tiff(data, changes), LIMITS)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({277: [4], 258: [8, 8, 8, 8]}, "ExtraSamples"),
        ({258: [8, 8, 16]}, "BitsPerSample differs"),
        ({339: [1, 1, 3]}, "SampleFormat differs"),
        ({262: [6]}, "YCbCr"),
        ({262: [8]}, "CIELAB"),
        ({262: [32803]}, "CFA"),
        ({262: [77]}, "77"),
        ({259: [7]}, "JPEG"),
        ({259: [34712]}, "JPEG 2000"),
        ({266: [2]}, "bit order"),
        ({317: [3]}, "predictor 3"),
        ({346: [1]}, "indexed"),
        ({332: [2]}, "inks"),
        ({32997: [4]}, "layers"),
    ],
)
def test_unsupported_feature_is_named(changes: dict[int, Sequence[int] | None], reason: str) -> None:
    with pytest.raises(UnsupportedImage, match=reason):
        decode(tiff(PIXELS, changes), LIMITS)


@pytest.mark.parametrize(
    "changes",
    [
        {256: [0]},
        {257: [0]},
        {278: [0]},
        {278: [5]},
        {279: [len(PIXELS) - 1]},
        {279: [0]},
        {273: [0]},
        {273: [1 << 30]},
        {279: [1 << 31]},
        {257: [13]},
        {284: [9]},
        {338: [0]},
        {256: [10, 10]},
        {284: [2]},
    ],
)
def test_contradicting_values_are_damage(changes: dict[int, Sequence[int] | None]) -> None:
    with pytest.raises(CorruptImage):
        decode(tiff(PIXELS, changes), LIMITS)


def test_repeated_tag_is_damage() -> None:
    data = bytearray(tiff(PIXELS))
    at = struct.unpack_from("<I", data, 4)[0] + 2
    data[at + 12 : at + 14] = data[at : at + 2]
    with pytest.raises(CorruptImage, match="ImageWidth is repeated"):
        decode(bytes(data), LIMITS)


@pytest.mark.parametrize(
    "thumbnail",
    [SMALL | {254: [1]}, SMALL | {254: [3]}, SMALL | {254: [5]}, SMALL | {255: [2]}, SMALL | {254: [4]}],
)
@pytest.mark.parametrize("count", [1, 3])
def test_thumbnails_and_masks_are_not_the_image(thumbnail: Tags, count: int) -> None:
    data = tiff(PIXELS, pages=[thumbnail] * count)
    np.testing.assert_array_equal(decode(data, LIMITS), RGB)
    assert (read_header(data).width, read_header(data).height) == (10, 12)


def test_thumbnail_alone_is_refused() -> None:
    with pytest.raises(UnsupportedImage, match="none of them is the full image"):
        decode(tiff(PIXELS, {254: [1]}), LIMITS)


def test_numbered_pages_are_read_in_their_order() -> None:
    second = SMALL | {297: [1, 2], 254: [2]}
    np.testing.assert_array_equal(decode(tiff(PIXELS, {297: [0, 2], 254: [2]}, pages=[second]), LIMITS), RGB)
    assert decode(tiff(PIXELS, pages=[SMALL]), LIMITS).shape == (2, 2, 3), "without numbers, the first page"


def palette(values: npt.NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, GRAY, photometric="palette", colormap=values.astype(np.uint16), metadata=None)
    return buffer.getvalue()


def test_colour_map_of_eight_bits_is_read_as_such() -> None:
    colours = np.random.default_rng(1).integers(0, 256, (3, 256), np.uint16)
    expected = np.moveaxis(colours[:, GRAY], 0, -1).astype(np.uint8)
    np.testing.assert_array_equal(decode(palette(colours), LIMITS), expected)
    np.testing.assert_array_equal(decode(palette(colours << 8), LIMITS), expected)
    np.testing.assert_array_equal(decode(palette(colours * 257), LIMITS), expected)
    dark = colours.copy()
    dark[0, GRAY[0, 0]] = 256  # one larger value: the map has 16 bits
    assert decode(palette(dark), LIMITS).max() == 1


@pytest.mark.parametrize("colour_map", [[1, 2, 3], None])
def test_colour_map_of_the_wrong_size_is_refused(colour_map: Sequence[int] | None) -> None:
    with pytest.raises((CorruptImage, UnsupportedImage), match="ColorMap"):
        decode(tiff(GRAY.tobytes(), {262: [3], 277: [1], 258: [8], 320: colour_map}), LIMITS)


def test_colours_multiplied_by_alpha_are_refused_unless_opaque() -> None:
    alpha = np.full((12, 10, 1), 255, np.uint8)
    for value in (255, 128):
        alpha[0, 0] = value
        buffer = io.BytesIO()
        rgba = np.concatenate([RGB, alpha], axis=2)
        tifffile.imwrite(buffer, rgba, photometric="rgb", extrasamples=["assocalpha"], metadata=None)
        if value == 255:
            np.testing.assert_array_equal(decode(buffer.getvalue(), LIMITS), RGB)
        else:
            with pytest.raises(UnsupportedImage, match="straight alpha"):
                decode(buffer.getvalue(), LIMITS)


def test_range_of_inks_is_obeyed_or_refused() -> None:
    inks = {262: [5], 277: [4], 258: [8, 8, 8, 8], 256: [10], 257: [9]}
    white = bytes(360)
    assert (decode(tiff(white, inks), LIMITS) == 255).all()
    assert (decode(tiff(white, inks | {336: [0, 255]}), LIMITS) == 255).all()
    with pytest.raises(UnsupportedImage, match="DotRange"):
        decode(tiff(white, inks | {336: [16, 235]}), LIMITS)


@pytest.mark.slow
@pytest.mark.parametrize("compression", [None, "zlib", "lzw", "packbits"])
def test_one_row_strips_are_read_quickly(compression: str | None) -> None:
    tall = np.random.default_rng(0).integers(0, 256, (60_000, 1), np.uint8)
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, tall, rowsperstrip=1, compression=compression, metadata=None)
    started = time.perf_counter()
    decoded = decode(buffer.getvalue(), LIMITS)
    assert time.perf_counter() - started < 2
    np.testing.assert_array_equal(decoded[..., 0], tall)


def test_number_of_strips_tiles_pages_and_tags_is_bounded() -> None:
    with pytest.raises(ImageTooComplex, match="strips or tiles"):
        decode(tiff(PIXELS, {257: [100_001], 278: [1]}), LIMITS)
    with pytest.raises(TooManyPixels):
        decode(tiff(PIXELS, {322: [16_000], 323: [16_000], 324: [8], 325: [100]}), LIMITS)
    with pytest.raises(ImageTooComplex, match="pages"):
        decode(tiff(PIXELS, pages=[SMALL] * 1_001), LIMITS)
    with pytest.raises(ImageTooComplex, match="tags"):
        decode(tiff(PIXELS, {tag: [1] for tag in range(40_000, 45_000)}), LIMITS)


def test_pages_in_a_loop_are_damage() -> None:
    data = bytearray(tiff(PIXELS))
    at = struct.unpack_from("<I", data, 4)[0]
    end = at + 2 + 12 * struct.unpack_from("<H", data, at)[0]
    data[end : end + 4] = struct.pack("<I", at)
    with pytest.raises(CorruptImage, match="loop"):
        decode(bytes(data), LIMITS)


def test_deflated_strips_far_beyond_their_size_are_refused() -> None:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, np.zeros((8_000, 8_000), np.uint8), compression="zlib", rowsperstrip=8_000, metadata=None)
    data = bytearray(buffer.getvalue())
    height = tifffile.TiffFile(io.BytesIO(data)).pages.first.tags["ImageLength"].valueoffset
    data[height : height + 4] = struct.pack("<I", 16)
    with pytest.raises(ImageTooComplex):
        decode(bytes(data), LIMITS)
