"""The quality check: measured values of known images, and limits with their margins."""

from dataclasses import fields, replace
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.bundle.card import ImageSizes
from service.inspection.measures import measure_quality, summarise
from service.inspection.quality import (
    EMPTY_CONTRAST,
    Quality,
    QualityLimits,
    derive_limits,
    find_violations,
)
from service.recipes.sections import PixelSetting
from service.recipes.sections import QualityLimits as QualityPart
from service.schemas.sections import InvalidReason
from tests.bundles import tiny_quality

SIZE = 64


def scene(seed: int = 0, *, light: float = 1.0, focus: float = 0.0) -> npt.NDArray[np.uint8]:
    """Return a textured part, uint8 [64, 64, 3], with the given brightness and sharpness."""
    rng = np.random.default_rng(seed)
    texture = cv2.GaussianBlur(rng.normal(0, 60, (SIZE, SIZE)), (0, 0), 0.8)
    gray = np.clip(light * (120 + texture), 0, 255)
    if focus:
        gray = cv2.GaussianBlur(gray, (0, 0), focus)
    return np.repeat(np.round(gray).astype(np.uint8)[..., None], 3, axis=2)


CALIBRATION = [measure_quality(scene(seed)) for seed in range(30)]
LIMITS = derive_limits(summarise(CALIBRATION))


def reasons(image: npt.NDArray[np.uint8], limits: QualityLimits = LIMITS) -> set[str]:
    return {violation.reason.value for violation in find_violations(measure_quality(image), (SIZE, SIZE), limits)}


def test_measures_of_a_known_image() -> None:
    image = np.zeros((4, 8, 3), np.uint8)
    image[:, 2:] = (0, 0, 255)  # saturated blue
    image[:, 6:] = 100

    quality = measure_quality(image)

    blue = 29  # gray level of pure blue in OpenCV
    assert quality.dark_share == 0.25
    assert quality.bright_share == 0.5
    assert quality.brightness == (blue * 4 + 100 * 2) / 8
    assert quality.contrast == pytest.approx(np.std([0, 0, blue, blue, blue, blue, 100, 100]))


def reference_quality(rgb: npt.NDArray[np.uint8]) -> Quality:
    """Return the quality by the definitions, in their plainest form: limits in recipes refer to these values."""
    gray = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    strongest = rgb.max(axis=2)
    mean, spread = cv2.meanStdDev(gray)
    red, green, blue, _ = cv2.mean(rgb)
    light = red + green + blue
    _, roughness = cv2.meanStdDev(cv2.Laplacian(gray, cv2.CV_16S))
    return Quality(
        brightness=float(mean[0, 0]),
        dark_share=float(np.count_nonzero(strongest <= 2) / strongest.size),
        bright_share=float(np.count_nonzero(strongest >= 253) / strongest.size),
        sharpness=float(roughness[0, 0]) ** 2,
        contrast=float(spread[0, 0]),
        red_share=red / light if light else 1 / 3,
        blue_share=blue / light if light else 1 / 3,
    )


@settings(max_examples=200, deadline=None)
@given(
    height=st.integers(1, 90),
    width=st.integers(1, 90),
    low=st.integers(0, 255),
    high=st.integers(0, 255),
    seed=st.integers(0, 2**32 - 1),
)
def test_measures_are_those_of_the_definitions_to_the_last_bit(
    height: int, width: int, low: int, high: int, seed: int
) -> None:
    low, high = sorted((low, high))
    image = np.random.default_rng(seed).integers(low, high + 1, (height, width, 3), dtype=np.uint8)
    before = image.copy()

    assert measure_quality(image) == reference_quality(image)
    assert np.array_equal(image, before)


@pytest.mark.parametrize("level", [0, 2, 3, 252, 253, 255])
def test_clipped_shares_include_the_limits(level: int) -> None:
    image = np.full((40, 56, 3), level, np.uint8)
    quality = measure_quality(image)
    assert (quality.dark_share, quality.bright_share) == (level <= 2, level >= 253)


def test_sharpness_decreases_out_of_focus() -> None:
    sharp, soft = measure_quality(scene()), measure_quality(scene(focus=2))
    assert soft.sharpness < sharp.sharpness / 10


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (scene(99), set()),
        (scene(99, light=0.8), set()),
        (scene(99, light=0.1), {"under-exposed", "blurred", "empty-frame"}),
        (scene(99, light=0.3), {"under-exposed", "blurred"}),
        (scene(99, light=3), {"over-exposed"}),
        (scene(99, focus=2), {"blurred"}),
        (np.full((SIZE, SIZE, 3), 120, np.uint8), {"blurred", "empty-frame"}),
        (np.zeros((SIZE, SIZE, 3), np.uint8), {"under-exposed", "blurred", "empty-frame"}),
        (np.full((SIZE, SIZE, 3), 255, np.uint8), {"over-exposed", "blurred", "empty-frame"}),
    ],
)
def test_violations_name_the_reason(image: npt.NDArray[np.uint8], expected: set[str]) -> None:
    assert reasons(image) == expected


def test_violation_states_value_and_limit() -> None:
    image = scene(99, light=0.3)
    (dark, *_) = find_violations(measure_quality(image), (SIZE, SIZE), LIMITS)

    assert (dark.reason, dark.measure, dark.limit) == (InvalidReason.UNDER_EXPOSED, "brightness", LIMITS.min_brightness)
    assert dark.measured == measure_quality(image).brightness
    assert dark.detail == (
        f"The image is too dark: its mean gray level is {dark.measured:.4g}, below {dark.limit:.4g}."
    )
    assert dark.to_stored()["reason"] == "under-exposed"


@pytest.mark.parametrize("defect", [0, 255])
def test_defect_is_not_a_quality_violation(defect: int) -> None:
    # A black or white spot of 4 % of the image is a matter of the verdict.
    image = scene(99)
    image[10:22, 10:22] = defect
    assert reasons(image) == set()


ranges = {
    "brightness": st.floats(0, 255),
    "dark_share": st.floats(0, 1),
    "bright_share": st.floats(0, 1),
    "sharpness": st.floats(0, 1e5),
    "contrast": st.floats(0, 128),
}
qualities = st.builds(Quality, **ranges)


@pytest.mark.slow
@given(st.lists(qualities, min_size=1, max_size=20), st.data())
@settings(max_examples=200)
def test_images_within_the_calibration_range_are_valid(calibration: list[Quality], data: st.DataObject) -> None:
    limits = derive_limits(summarise(calibration))
    # Every calibration image, and every image between them in each measure.
    between = Quality(
        **{
            field.name: data.draw(
                st.floats(
                    min(getattr(quality, field.name) for quality in calibration),
                    max(getattr(quality, field.name) for quality in calibration),
                )
            )
            for field in fields(Quality)
        }
    )
    for quality in (*calibration, between):
        assert find_violations(quality, (SIZE, SIZE), limits) == ()


@pytest.mark.parametrize("seed", range(100, 150))
def test_new_images_of_the_same_scene_are_valid(seed: int) -> None:
    assert reasons(scene(seed)) == set()


def test_bundle_without_statistics_detects_only_empty_frames() -> None:
    limits = derive_limits(None)

    assert limits == QualityLimits(min_contrast=EMPTY_CONTRAST)
    assert reasons(np.zeros((SIZE, SIZE, 3), np.uint8), limits) == {"empty-frame"}
    assert reasons(scene(99, light=0.1, focus=1), limits) == set()


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        (QualityPart(), {}),
        (QualityPart(min_brightness=77), {"min_brightness": 77}),
        (QualityPart(off=[InvalidReason.BLURRED]), {"min_sharpness": None}),
        (QualityPart(min_sharpness=5, off=[InvalidReason.BLURRED]), {"min_sharpness": None}),
        (QualityPart(off=[InvalidReason.UNDER_EXPOSED]), {"min_brightness": None, "max_dark_share": None}),
        (QualityPart(off=[InvalidReason.OVER_EXPOSED]), {"max_brightness": None, "max_bright_share": None}),
        (QualityPart(off=[InvalidReason.EMPTY_FRAME, InvalidReason.FROZEN_FRAME]), {"min_contrast": None}),
    ],
)
def test_recipe_overrides_and_switches_off_limits(part: QualityPart, expected: dict[str, Any]) -> None:
    bundle = derive_limits(tiny_quality(brightness=(100, 120), sharpness=(40, 50), contrast=(8, 9)))
    combined = part.combine(bundle, PixelSetting(width=640, height=480))
    assert combined == replace(bundle, width=640, height=480, **expected)


def test_wrong_size_is_reported_for_each_side() -> None:
    limits = QualityLimits(width=640, height=64)
    (violation,) = find_violations(measure_quality(scene()), (SIZE, SIZE), limits)
    assert violation.detail == "The image's width is 64 pixels, the recipe declares 640."
    assert (violation.measure, violation.measured, violation.limit) == ("width", 64, 640)
    off = QualityPart(off=[InvalidReason.WRONG_SIZE]).combine(QualityLimits(), PixelSetting(width=640, height=480))
    assert find_violations(measure_quality(scene()), (SIZE, SIZE), off) == ()


SQUARE = ImageSizes(min_width=512, max_width=512, min_height=512, max_height=512, min_aspect=1.0, max_aspect=1.0)


def size_violations(
    image_wh: tuple[int, int], pixels: PixelSetting | None = None, sizes: ImageSizes | None = SQUARE, **quality: Any
) -> list[tuple[str, float]]:
    own = derive_limits(None, sizes)
    limits = QualityPart(**quality).combine(own, pixels or PixelSetting())
    found = find_violations(Quality(128, 0, 0, 100, 40), image_wh, limits)
    assert {violation.reason for violation in found} <= {InvalidReason.WRONG_SIZE}
    assert all("bundle was made from" in v.detail or "recipe declares" in v.detail for v in found)
    return [(violation.measure, violation.limit) for violation in found]


@pytest.mark.parametrize(
    ("image_wh", "measures"),
    [
        ((512, 512), []),
        ((1024, 1024), []),
        ((530, 512), []),
        ((512, 530), []),
        ((256, 256), []),
        ((255, 255), ["width", "height"]),
        ((1024, 384), ["aspect_ratio"]),
        ((384, 1024), ["aspect_ratio"]),
        ((512, 480), ["aspect_ratio"]),
        ((64, 8), ["width", "height", "aspect_ratio"]),
    ],
)
def test_size_must_be_like_that_of_the_training_images(image_wh: tuple[int, int], measures: list[str]) -> None:
    assert [measure for measure, _ in size_violations(image_wh)] == measures
    assert size_violations(image_wh, off=["wrong-size"]) == []
    assert size_violations(image_wh, sizes=None) == [], "bundles from before sizes were recorded accept every size"


def test_declared_size_replaces_that_of_the_training_images() -> None:
    both = PixelSetting(width=1024, height=384)

    assert size_violations((1024, 384), both) == []
    assert size_violations((512, 512), both) == [("width", 1024), ("height", 384)]
    assert size_violations((100, 100), PixelSetting(width=100)) == [("height", 256)]


def test_products_of_several_sizes_accept_what_lies_between() -> None:
    sizes = ImageSizes(min_width=400, max_width=800, min_height=300, max_height=800, min_aspect=1.0, max_aspect=4 / 3)

    assert size_violations((640, 540), sizes=sizes) == []
    assert [measure for measure, _ in size_violations((800, 500), sizes=sizes)] == ["aspect_ratio"]
