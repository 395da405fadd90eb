"""Scaled decoding of JPEG files: sizes, pixels beside those of other decoders, and the same refusals as in full."""

from __future__ import annotations

import io
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from service.inspection.decoding.decoder import ImageLimits, decode
from service.inspection.decoding.jpeg import scaled_size
from service.inspection.decoding.pixel_formats import PixelRules
from service.inspection.errors import CorruptImage, TooManyPixels, UnsupportedImage
from tests.service.inspection.decoding.test_jpeg import restarting

UInt8Image = npt.NDArray[np.uint8]
LIMITS = ImageLimits(max_pixels=1_000_000)
RNG = np.random.default_rng(5)


def textured(height: int = 200, width: int = 312) -> UInt8Image:
    """Return an image with detail at all scales, uint8 [height, width, 3]."""
    layers = [
        cv2.resize(RNG.normal(0, 60 / octave, (4 * octave, 4 * octave, 3)), (width, height)) for octave in (1, 2, 4, 8)
    ]
    return np.asarray(np.clip(128 + np.sum(layers, axis=0), 0, 255), np.uint8)


IMAGE = textured()


def jpeg(image: UInt8Image = IMAGE, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", **({"quality": 92} | options))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("size", "needed", "expected"),
    [
        ((1024, 1024), (384, 384), (384, 384)),
        ((1024, 1024), (385, 384), (512, 512)),
        ((1024, 1024), (384, 385), (512, 512)),
        ((1024, 1024), (100, 100), (128, 128)),
        ((1024, 1024), (513, 513), (1024, 1024)),
        ((900, 900), (256, 256), (450, 450)),
        ((900, 900), (200, 200), (225, 225)),
        ((1080, 1920), (256, 256), (270, 480)),
        ((1023, 1025), (100, 100), (1023, 1025)),
        ((1024, 1026), (100, 100), (512, 513)),
        ((1024, 1025), (100, 100), (1024, 1025)),
        ((3000, 4096), (384, 384), (750, 1024)),
        ((3000, 4096), (256, 256), (375, 512)),
        ((200, 4096), (256, 256), (200, 4096)),
        ((64, 64), (64, 64), (64, 64)),
        ((16, 24), (1, 1), (2, 3)),
    ],
)
def test_size_is_the_smallest_fraction_that_is_large_enough(
    size: tuple[int, int], needed: tuple[int, int], expected: tuple[int, int]
) -> None:
    assert scaled_size(size, needed) == expected


@given(st.integers(1, 9000), st.integers(1, 9000), st.integers(1, 5000), st.integers(1, 5000))
def test_scaled_size_is_never_below_the_needed_one(height: int, width: int, rows: int, columns: int) -> None:
    found = scaled_size((height, width), (rows, columns))
    if found != (height, width):
        assert found >= (rows, columns)
        assert found[0] >= rows
        assert found[1] >= columns
        assert found[0] * width == found[1] * height
        assert 2 * found[0] <= height


@pytest.mark.parametrize(
    "options",
    [
        {"subsampling": "4:4:4"},
        {"subsampling": "4:2:0"},
        {"subsampling": "4:2:2"},
        {"subsampling": "4:2:0", "progressive": True},
        {"restart_marker_blocks": 3},
    ],
    ids=str,
)
@pytest.mark.parametrize("eighths", [1, 2, 3, 4])
def test_scaled_image_resembles_the_averaged_one(options: dict[str, Any], eighths: int) -> None:
    data = jpeg(**options)
    height, width = (side * eighths // 8 for side in IMAGE.shape[:2])

    found = decode(data, LIMITS, needed=(height, width))

    assert found.shape == (height, width, 3)
    expected = cv2.resize(decode(data, LIMITS), (width, height), interpolation=cv2.INTER_AREA)
    difference = np.abs(found.astype(int) - expected)
    # The lowest fraction of 4:2:2 has its colours from half the width.
    assert difference.mean() < 4
    assert np.quantile(difference, 0.99) < 14


@pytest.mark.parametrize("eighths", [1, 2, 4])
@pytest.mark.parametrize("options", [{"subsampling": "4:4:4"}, {"subsampling": "4:2:0"}, {"progressive": True}])
def test_pixels_are_those_of_another_build_of_libjpeg(options: dict[str, Any], eighths: int) -> None:
    data = jpeg(**options)
    height, width = (side * eighths // 8 for side in IMAGE.shape[:2])
    other = Image.open(io.BytesIO(data))
    other.draft("RGB", (width, height))

    np.testing.assert_array_equal(decode(data, LIMITS, needed=(height, width)), np.asarray(other))


def test_gray_and_ink_images_are_scaled() -> None:
    gray = jpeg(IMAGE[..., 0])
    assert np.ptp(decode(gray, LIMITS, needed=(50, 50)), axis=2).max() == 0
    assert decode(gray, LIMITS, needed=(50, 50)).shape == (50, 78, 3)
    inks = io.BytesIO()
    Image.fromarray(IMAGE).convert("CMYK").save(inks, "JPEG", quality=95)
    found, full = decode(inks.getvalue(), LIMITS, needed=(50, 50)), decode(inks.getvalue(), LIMITS)
    assert found.shape == (50, 78, 3)
    expected = cv2.resize(full, (78, 50), interpolation=cv2.INTER_AREA)
    assert np.abs(found.astype(int) - expected).mean() < 3


@pytest.mark.parametrize("needed", [(101, 156), (200, 312), (500, 500), (101, 40)])
def test_image_that_is_not_twice_as_large_is_decoded_in_full(needed: tuple[int, int]) -> None:
    data = jpeg()
    np.testing.assert_array_equal(decode(data, LIMITS, needed=needed), decode(data, LIMITS))


@pytest.mark.parametrize("kind", ["PNG", "BMP", "WEBP", "TIFF"])
def test_other_formats_are_decoded_in_full(kind: str) -> None:
    buffer = io.BytesIO()
    Image.fromarray(IMAGE).save(buffer, kind, **({"lossless": True} if kind == "WEBP" else {}))
    np.testing.assert_array_equal(decode(buffer.getvalue(), LIMITS, needed=(10, 10)), IMAGE)


def test_limit_on_pixels_refers_to_the_full_size() -> None:
    with pytest.raises(TooManyPixels):
        decode(jpeg(), ImageLimits(max_pixels=200 * 312 - 1), needed=(10, 10))


def refusal(data: bytes, needed: tuple[int, int] | None) -> str | None:
    """Return the reason why a file is refused; None if it is decoded."""
    try:
        decode(data, LIMITS, needed=needed)
    except (CorruptImage, UnsupportedImage) as error:
        return f"{error.slug}: {error.detail}"
    return None


@pytest.mark.parametrize("needed", [(10, 10), (30, 26), (45, 39), (60, 52)])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_blocks": 2}], ids=str)
def test_damage_is_refused_as_in_full_decoding(options: dict[str, Any], needed: tuple[int, int]) -> None:
    data = jpeg(textured(120, 104), **options)
    start = data.index(b"\xff\xda")
    rng = np.random.default_rng(1)
    refused = 0
    for _ in range(150):
        damaged = bytearray(data)
        for at in rng.integers(start, len(data), int(rng.integers(1, 4))):
            damaged[at] = rng.integers(256)
        reason = refusal(bytes(damaged), None)
        assert refusal(bytes(damaged), needed) == reason
        refused += reason is not None
    assert refused > 30, "damage that is no damage would test nothing"


@pytest.mark.parametrize("needed", [None, (10, 10), (50, 50)])
def test_truncated_file_is_refused(needed: tuple[int, int] | None) -> None:
    data = jpeg()
    for share in (0.3, 0.6, 0.9, 0.99):
        assert refusal(data[: int(share * len(data))] + b"\xff\xd9", needed) is not None


def test_stray_bytes_are_tolerated_where_the_recipe_says_so() -> None:
    data, full = restarting({0: b"\x2a" * 9})
    clean, _ = restarting({})
    rules = PixelRules(tolerate_stray_bytes=True)
    found = decode(data, LIMITS, rules, needed=(8, 8))

    np.testing.assert_array_equal(found, decode(clean, LIMITS, needed=(8, 8)))
    assert found.size < full.size / 3
    with pytest.raises(CorruptImage, match="stray"):
        decode(data, LIMITS, needed=(8, 8))
