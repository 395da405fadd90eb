"""JPEG files of cameras and phones: unusual metadata is accepted, damage and unstated colours are not."""

from __future__ import annotations

import io
import struct
import time
from collections.abc import Callable
from typing import Any

import imagecodecs
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from service.inspection.decoding.decoder import ImageLimits, decode, read_header
from service.inspection.decoding.jpeg_file import MAX_SCANS
from service.inspection.decoding.pixel_formats import PixelRules
from service.inspection.errors import CorruptImage, ImageTooComplex, UnsupportedImage
from tests.service.inspection.decoding.differential import textured

LIMITS = ImageLimits()
TOLERANT = PixelRules(tolerate_stray_bytes=True)
PIXELS = np.asarray(textured(np.random.default_rng(0), 64, 48, 3, 8), np.uint8)


def jpeg(image: npt.NDArray[np.uint8] = PIXELS, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", **{"quality": 85, **options})
    return buffer.getvalue()


def segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


PLAIN = jpeg()
EXPECTED = decode(PLAIN, LIMITS)
JFIF_BYTES = 18  # of the segment that Pillow writes behind the first marker
BARE = PLAIN[:2] + PLAIN[2 + JFIF_BYTES :]
SOF, SOS = PLAIN.index(b"\xff\xc0"), PLAIN.index(b"\xff\xda")


def insert(data: bytes, at: int, what: bytes) -> bytes:
    return data[:at] + what + data[at:]


@pytest.mark.parametrize(
    "data",
    [
        PLAIN[:11] + b"\x00\x00" + PLAIN[13:],  # JFIF 0.00
        PLAIN[:11] + b"\x09\x63" + PLAIN[13:],  # JFIF 9.99
        PLAIN[:13] + b"\x07\x00\x00\x00\x00" + PLAIN[18:],  # unknown unit of density 0
        PLAIN[:18] + b"\x09\x09" + PLAIN[20:],  # a JFIF thumbnail that is not there
        insert(PLAIN, 20, segment(0xE2, b"ICC_PROFILE\0\x00\x01profile")),  # ICC chunk number 0
        insert(PLAIN, 20, segment(0xE2, b"ICC_PROFILE\0\x05\x02profile")),
        insert(PLAIN, 20, segment(0xE1, b"Exif\0\0garbage")),
        insert(PLAIN, 20, segment(0xEE, b"Adobe")),  # too short to state anything
        insert(PLAIN, 20, segment(0xFE, b"a comment") * 30),
        insert(PLAIN, 20, b"\x12\x34\x56\x78"),
        insert(PLAIN, SOF, b"\x00" * 100),
        insert(PLAIN, SOS, b"\xff\xff\xff"),
        insert(PLAIN, 20, b"\xff\x00\xff\x01\xff\xd3\xff\x7f"),  # no segments
        PLAIN[: SOS + 11] + b"\x01\x02\x03" + PLAIN[SOS + 14 :],  # values without meaning in sequential files
        PLAIN + b"behind the end",
        PLAIN + PLAIN,
        BARE,  # neither JFIF nor Adobe: the standard defines YCbCr
        insert(BARE, 2, segment(0xE1, b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0")),
    ],
)
def test_whole_image_with_unusual_metadata_is_accepted(data: bytes) -> None:
    np.testing.assert_array_equal(decode(data, LIMITS), EXPECTED)


def test_first_image_of_an_mpo_file_is_read() -> None:
    other = np.full((20, 30, 3), 200, np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, "MPO", save_all=True, append_images=[Image.fromarray(other)], quality=85)
    data = buffer.getvalue()
    assert Image.open(io.BytesIO(data)).format == "MPO"

    assert read_header(data).media_type == "image/jpeg"
    np.testing.assert_array_equal(decode(data, LIMITS), decode(jpeg(), LIMITS))


@pytest.mark.parametrize(
    ("marker", "word"),
    [
        (0xC3, "lossless"),
        (0xC5, "hierarchical"),
        (0xC9, "arithmetic"),
        (0xCA, "arithmetic"),
        (0xCB, "arithmetic lossless"),
    ],
)
def test_coding_process_that_is_not_read_is_unsupported(marker: int, word: str) -> None:
    data = PLAIN[: SOF + 1] + bytes([marker]) + PLAIN[SOF + 2 :]
    for read in (lambda: decode(data, LIMITS), lambda: read_header(data)):
        with pytest.raises(UnsupportedImage, match=word):
            read()


def test_twelve_bits_and_lossless_files_of_an_encoder_are_unsupported() -> None:
    twelve = bytes(imagecodecs.jpeg8_encode(PIXELS.astype(np.uint16) << 4, bitspersample=12))
    with pytest.raises(UnsupportedImage, match="12 bits"):
        decode(twelve, LIMITS)
    with pytest.raises(UnsupportedImage, match="lossless"):
        decode(bytes(imagecodecs.jpeg8_encode(PIXELS, lossless=True)), LIMITS)


def test_height_behind_the_scan_is_unsupported() -> None:
    with pytest.raises(UnsupportedImage, match="DNL"):
        decode(PLAIN[: SOF + 5] + b"\x00\x00" + PLAIN[SOF + 7 :], LIMITS)


def adobe(transform: int) -> bytes:
    return segment(0xEE, b"Adobe" + struct.pack(">HHHB", 100, 0, 0, transform))


@pytest.mark.parametrize(
    "data",
    [
        insert(PLAIN, 20, adobe(0)),  # JFIF states YCbCr, Adobe states RGB
        insert(PLAIN, 20, adobe(2)),
        insert(BARE, 2, adobe(7)),
    ],
)
def test_contradicting_or_undefined_colours_are_refused(data: bytes) -> None:
    with pytest.raises(UnsupportedImage, match="colours"):
        decode(data, LIMITS)


def test_stated_colours_are_obeyed() -> None:
    np.testing.assert_array_equal(decode(insert(BARE, 2, adobe(1)), LIMITS), EXPECTED)
    np.testing.assert_array_equal(decode(insert(PLAIN, 20, adobe(1)), LIMITS), EXPECTED)
    ycc = np.asarray(Image.open(io.BytesIO(BARE)).convert("YCbCr"))
    as_rgb = decode(insert(BARE, 2, adobe(0)), LIMITS).astype(int)
    assert np.abs(as_rgb - ycc).mean() < 2, "the components are the colours themselves"


def test_inks_need_an_adobe_marker() -> None:
    buffer = io.BytesIO()
    Image.new("CMYK", (16, 16), (0, 0, 0, 0)).save(buffer, "JPEG")
    data = buffer.getvalue()
    assert decode(data, LIMITS).min() > 250
    at = data.index(b"Adobe") - 4
    with pytest.raises(UnsupportedImage, match="no Adobe marker"):
        decode(data[:at] + data[at + 16 :], LIMITS)


def progressive(script: Callable[[list[bytes]], list[bytes]]) -> bytes:
    """Return a progressive file whose scans, each with its tables, were rearranged."""
    data = jpeg(progressive=True)
    begin = data.index(b"\xff\xc4")
    body = data[begin:-2]
    cuts = [at for at in range(len(body) - 1) if body[at : at + 2] == b"\xff\xda"]
    pieces: list[bytes] = []
    start = 0
    for cut in cuts:
        end = next(
            (
                at
                for at in range(cut + 2, len(body) - 1)
                if body[at] == 0xFF and body[at + 1] not in (0, *range(0xD0, 0xD8))
            ),
            len(body),
        )
        pieces.append(body[start:end])
        start = end
    return data[:begin] + b"".join(script(pieces)) + b"\xff\xd9"


def test_progressive_scans_are_read() -> None:
    np.testing.assert_array_equal(decode(progressive(lambda scans: scans), LIMITS), EXPECTED)


@pytest.mark.parametrize(
    ("script", "word"),
    [
        (lambda scans: scans[:-1], "incomplete"),
        (lambda scans: scans[:1], "incomplete"),
        (lambda scans: scans[1:], "out of order"),
        (lambda scans: [*scans, scans[-1]], "out of order"),
        (lambda scans: [scans[0], *scans], "out of order"),
    ],
)
def test_incomplete_progression_is_refused(script: Callable[[list[bytes]], list[bytes]], word: str) -> None:
    # A decoder shows a blurred image and reports nothing.
    with pytest.raises(CorruptImage, match=word):
        decode(progressive(script), LIMITS)


def test_missing_colour_component_is_refused() -> None:
    at = PLAIN.index(b"\xff\xda")
    header = b"\xff\xda" + struct.pack(">HB", 8, 1) + b"\x01\x00" + b"\x00\x3f\x00"
    with pytest.raises(CorruptImage, match="component is missing"):
        decode(PLAIN[:at] + header + PLAIN[at + 14 :], LIMITS)


@pytest.mark.parametrize("height", [16, 32, 56, 4000])
def test_wrong_size_in_the_header_is_refused(height: int) -> None:
    with pytest.raises(CorruptImage):
        decode(PLAIN[: SOF + 5] + struct.pack(">H", height) + PLAIN[SOF + 7 :], LIMITS)


@pytest.mark.parametrize("cut", [2, 3, 50, 400])
def test_file_without_its_end_is_refused(cut: int) -> None:
    with pytest.raises(CorruptImage):
        decode(PLAIN[:-cut], LIMITS)
    with pytest.raises(CorruptImage):
        decode(PLAIN[:-cut][: -3 - cut] + b"\xff\xd9", LIMITS)


def scan_bomb(side: int, scans: int) -> bytes:
    """Return a progressive file that repeats a scan without any coefficient."""
    image = jpeg(np.full((side, side, 3), 128, np.uint8), progressive=True, quality=10)
    blocks = (side // 8) ** 2
    end_of_bands, run = b"", blocks
    while run:
        size = min(14, run.bit_length() - 1)
        end_of_bands += format(size, "04b").encode() + (
            format(run - (1 << size), f"0{size}b").encode() if size else b""
        )
        run -= (1 << size) + (run - (1 << size) if size < 14 else run % (1 << size) if run < 1 << 15 else (1 << 14) - 1)
        run = max(run, 0)
    body = bytes(int(end_of_bands[at : at + 8].ljust(8, b"1"), 2) for at in range(0, len(end_of_bands), 8))
    table = segment(0xC4, b"\x10" + bytes([0, 0, 0, 16]) + bytes(12) + bytes(n << 4 for n in range(16)))
    scan = segment(0xDA, b"\x01\x01\x00\x01\x01\x00") + body.replace(b"\xff", b"\xff\x00")
    return image[:-2] + table + scan * scans + b"\xff\xd9"


def test_number_of_scans_is_bounded_before_decoding() -> None:
    data = scan_bomb(1024, 3000)
    started = time.perf_counter()
    with pytest.raises(ImageTooComplex, match="scans"):
        decode(data, LIMITS)
    assert time.perf_counter() - started < 1
    with pytest.raises(ImageTooComplex, match=f"{MAX_SCANS + 1}"):
        decode(scan_bomb(64, MAX_SCANS), LIMITS)


def test_scans_of_a_large_image_are_bounded_by_its_size() -> None:
    header = PLAIN[: SOF + 5] + struct.pack(">HH", 60_000, 60_000) + PLAIN[SOF + 9 :]
    with pytest.raises(ImageTooComplex):
        decode(header, ImageLimits(max_pixels=10_000_000_000))


def test_number_of_segments_is_bounded() -> None:
    for read in (lambda data: decode(data, LIMITS), read_header):
        with pytest.raises(ImageTooComplex, match="segments"):
            read(insert(PLAIN, 20, segment(0xFE, b"") * 20_000))


def restarting(stray: dict[int, bytes], **options: Any) -> tuple[bytes, npt.NDArray[np.uint8]]:
    """Return a file with stray bytes before some of its restart markers (-1: the end), and its pixels."""
    data = jpeg(**{"restart_marker_blocks": 4, **options})
    at = data.index(b"\xff\xda")
    head, body = data[: at + 2], data[at + 2 : -2]
    intervals, markers = [b""], []
    position = 0
    while position < len(body):
        if body[position] == 0xFF and 0xD0 <= body[position + 1] <= 0xD7:
            markers.append(body[position : position + 2])
            intervals.append(b"")
            position += 2
        else:
            intervals[-1] += body[position : position + 1]
            position += 1
    for number, extra in stray.items():
        intervals[number] += extra
    joined = b"".join(piece + mark for piece, mark in zip(intervals, [*markers, b""], strict=True))
    return head + joined + b"\xff\xd9", decode(data, LIMITS)


STRAY: list[dict[int, bytes]] = [
    {0: b"\x2a" * 9},
    {0: b"\x00" * 50, 1: b"\xff\x00\xff\x00", 2: b"\x12\x34\xff\x00"},
    {0: b"\x2a" * 9, 1: b"\x00", 2: b"\x01\x02\x03"},
    {-1: b"\x2a" * 20},
]


@pytest.mark.parametrize("stray", STRAY)
@pytest.mark.parametrize("options", [{}, {"subsampling": "4:4:4"}, {"subsampling": "4:2:2"}])
def test_stray_bytes_before_markers_need_the_option(stray: dict[int, bytes], options: dict[str, object]) -> None:
    data, expected = restarting(stray, **options)
    with pytest.raises(CorruptImage, match=r"pixels\.tolerate_stray_bytes"):
        decode(data, LIMITS)
    np.testing.assert_array_equal(decode(data, LIMITS, TOLERANT), expected)


@pytest.mark.parametrize("number", range(3))
@pytest.mark.parametrize("size", range(1, 12))
def test_few_stray_bytes_never_change_a_pixel(number: int, size: int) -> None:
    # The decoder reads some bytes in advance and does not report them.
    data, expected = restarting({number: b"\x5a" * size})
    try:
        np.testing.assert_array_equal(decode(data, LIMITS), expected)
    except CorruptImage:
        np.testing.assert_array_equal(decode(data, LIMITS, TOLERANT), expected)


def test_option_changes_nothing_for_other_files() -> None:
    np.testing.assert_array_equal(decode(PLAIN, LIMITS, TOLERANT), EXPECTED)
    gray, expected = restarting({2: b"\x2a" * 9}, restart_marker_blocks=4)
    np.testing.assert_array_equal(decode(gray, LIMITS, TOLERANT), expected)


def test_option_tolerates_no_other_damage() -> None:
    data, _ = restarting({0: b"\x2a" * 9})
    second = data.index(b"\xff\xd1")
    broken = {
        "interval without its end": data[: second - 12] + data[second:],
        "no marker": data.replace(b"\xff\xd1", b"", 1),
        "wrong marker": data.replace(b"\xff\xd1", b"\xff\xd3", 1),
        "empty interval": data.replace(b"\xff\xd1", b"\xff\xd1\xff\xd2", 1),
        "end missing": data[:-2],
        "many stray bytes": data[:second] + bytes(100) + data[second:],
    }
    for damage, given in broken.items():
        with pytest.raises(CorruptImage):
            pytest.fail(f"{damage}: {decode(given, LIMITS, TOLERANT).shape}")


def test_option_is_for_sequential_files() -> None:
    data = progressive(lambda scans: [scans[0] + b"\x2a" * 30, *scans[1:]])
    with pytest.raises(CorruptImage, match="stray"):
        decode(data, LIMITS)
    with pytest.raises(UnsupportedImage, match="sequential"):
        decode(data, LIMITS, TOLERANT)


def test_option_is_stored_with_the_rules() -> None:
    assert PixelRules.from_stored(TOLERANT.to_stored()) == TOLERANT
    older = {"layout": None, "bit_depth": 12, "black_level": 0, "white_level": None}
    assert PixelRules.from_stored(older) == PixelRules(bit_depth=12)
