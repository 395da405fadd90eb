"""The quality check: measured values of an image, their limits, and the violations that are reported.

A black, blurred or empty image gets a score like any other image, but the verdict would be about the camera and not
about the part. So such an image is rejected (`decision: invalid`). The limits follow from the bundle's calibration
images. Their margins are wide enough that images like these are never rejected, and narrow enough that a failed light
source or a lens out of focus is detected.

This module does not import OpenCV, because recipes use its names. `measures.py` computes the measured values.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from service.schemas.sections import InvalidReason

if TYPE_CHECKING:
    from service.bundle.card import ImageSizes, QualityStatistics

# Margins around the calibration images. Images beyond them are rejected.
EXPOSURE_MARGIN = 0.5  # brightness: half way from the darkest or brightest calibration image to black or white
CLIPPED_MARGIN = 0.05  # clipped pixels: twice the largest share, and at least this much more
DETAIL_MARGIN = 0.25  # sharpness and contrast: a quarter of the smallest
ASPECT_TOLERANCE = 0.05  # width / height: this far beyond the good images. More distorts a part noticeably.
MIN_SIZE_FACTOR = 0.5  # width and height, of the smallest good image. A smaller image lacks detail that was learned.
# In gray levels, for bundles without quality statistics. A lower contrast is only noise, for example from a covered
# lens.
EMPTY_CONTRAST = 1.0


@dataclass(frozen=True)
class Quality:
    """Measured values of an image, at the size of the network's input.

    Attributes:
        brightness: Mean gray level, 0 to 255.
        dark_share: Share of pixels that are black in every channel (at most 2 of 255).
        bright_share: Share of pixels that are saturated in some channel (at least 253 of 255).
        sharpness: Variance of the Laplacian of the gray image.
        contrast: Standard deviation of the gray levels.
        red_share: Share of red in the mean colour, 0 to 1; a third for a gray image. It has no limit: see
            `service.monitoring.drift`.
        blue_share: The same of blue.
    """

    brightness: float
    dark_share: float
    bright_share: float
    sharpness: float
    contrast: float
    red_share: float = 1 / 3
    blue_share: float = 1 / 3


@dataclass(frozen=True)
class QualityLimits:
    """Limits of the quality check. None switches a limit off.

    Attributes:
        min_brightness, max_brightness: Limits of the mean gray level.
        max_dark_share, max_bright_share: Limits of the share of clipped pixels.
        min_sharpness: Limit of the variance of the Laplacian.
        min_contrast: Limit of the standard deviation of the gray levels.
        min_width, min_height: Smallest size of the image as it was sent, in pixels.
        min_aspect, max_aspect: Limits of its width / height.
        width, height: Exact size that the recipe declares, in pixels.
    """

    min_brightness: float | None = None
    max_brightness: float | None = None
    max_dark_share: float | None = None
    max_bright_share: float | None = None
    min_sharpness: float | None = None
    min_contrast: float | None = None
    min_width: float | None = None
    min_height: float | None = None
    min_aspect: float | None = None
    max_aspect: float | None = None
    width: int | None = None
    height: int | None = None


@dataclass(frozen=True)
class QualityViolation:
    """A reason why an image is rejected by the quality check.

    Attributes:
        reason: Code of the reason.
        detail: A sentence with the measured value and the limit.
        measure: The measured field of `Quality`, or "width", "height", "aspect_ratio" or "repeats".
        measured: The measured value.
        limit: The limit that it violates.
    """

    reason: InvalidReason
    detail: str
    measure: str
    measured: float
    limit: float

    def to_stored(self) -> dict[str, Any]:
        """Return the violation as JSON-serialisable values."""
        return asdict(self) | {"reason": self.reason.value}


def derive_limits(statistics: QualityStatistics | None, image_size: ImageSizes | None = None) -> QualityLimits:
    """Return the limits of a bundle.

    Args:
        statistics: Statistics of its calibration images. None for a bundle that was made before they were measured;
            then only empty frames are detected.
        image_size: Sizes of the good images. None for a bundle that was made before they were recorded; then every
            size is accepted.
    """
    limits = QualityLimits()
    if image_size is not None:
        limits = QualityLimits(
            min_width=MIN_SIZE_FACTOR * image_size.min_width,
            min_height=MIN_SIZE_FACTOR * image_size.min_height,
            min_aspect=image_size.min_aspect / (1 + ASPECT_TOLERANCE),
            max_aspect=image_size.max_aspect * (1 + ASPECT_TOLERANCE),
        )
    if statistics is None:
        return replace(limits, min_contrast=EMPTY_CONTRAST)
    return replace(
        limits,
        min_brightness=EXPOSURE_MARGIN * statistics.brightness.low,
        max_brightness=255 - EXPOSURE_MARGIN * (255 - statistics.brightness.high),
        max_dark_share=_clipped(statistics.dark_share.high),
        max_bright_share=_clipped(statistics.bright_share.high),
        min_sharpness=DETAIL_MARGIN * statistics.sharpness.low,
        min_contrast=DETAIL_MARGIN * statistics.contrast.low,
    )


def find_violations(quality: Quality, image_wh: tuple[int, int], limits: QualityLimits) -> tuple[QualityViolation, ...]:
    """Compare the quality of an image with limits.

    Args:
        quality: The measured values.
        image_wh: Width and height of the image as it was sent.
        limits: The limits in force.

    Returns:
        All violations; empty if the image may be judged.
    """
    violations = list(_size_violations(image_wh, limits))
    for reason, measure, is_upper, limit, what in (
        (InvalidReason.UNDER_EXPOSED, "brightness", False, limits.min_brightness, "mean gray level"),
        (InvalidReason.UNDER_EXPOSED, "dark_share", True, limits.max_dark_share, "share of black pixels"),
        (InvalidReason.OVER_EXPOSED, "brightness", True, limits.max_brightness, "mean gray level"),
        (InvalidReason.OVER_EXPOSED, "bright_share", True, limits.max_bright_share, "share of saturated pixels"),
        (InvalidReason.BLURRED, "sharpness", False, limits.min_sharpness, "sharpness (variance of the Laplacian)"),
        (InvalidReason.EMPTY_FRAME, "contrast", False, limits.min_contrast, "contrast (spread of gray levels)"),
    ):
        measured_value: float = getattr(quality, measure)
        if limit is not None and (measured_value > limit if is_upper else measured_value < limit):
            side = "above" if is_upper else "below"
            detail = f"The image is {_ADJECTIVES[reason]}: its {what} is {measured_value:.4g}, {side} {limit:.4g}."
            violations.append(QualityViolation(reason, detail, measure, measured_value, limit))
    return tuple(violations)


def _size_violations(image_wh: tuple[int, int], limits: QualityLimits) -> Iterator[QualityViolation]:
    """Yield the limits of the size as it was sent that an image violates."""
    width, height = image_wh
    for measure, measured, expected, smallest in (
        ("width", width, limits.width, limits.min_width),
        ("height", height, limits.height, limits.min_height),
    ):
        if expected is not None and measured != expected:
            detail = f"The image's {measure} is {measured} pixels, the recipe declares {expected}."
            yield QualityViolation(InvalidReason.WRONG_SIZE, detail, measure, measured, expected)
        if smallest is not None and measured < smallest:
            detail = (
                f"The image's {measure} is {measured} pixels, at least {smallest:g} are expected, from the images that "
                f"the bundle was made from. {_SIZE_REMEDY}"
            )
            yield QualityViolation(InvalidReason.WRONG_SIZE, detail, measure, measured, smallest)
    aspect = width / height
    lowest, highest = limits.min_aspect, limits.max_aspect
    if lowest is not None and aspect < lowest:
        side, limit = "at least", lowest
    elif highest is not None and aspect > highest:
        side, limit = "at most", highest
    else:
        return
    detail = (
        f"The image's aspect ratio is {aspect:.4g} ({width} x {height} pixels), {side} {limit:.4g} is expected, from "
        f"the images that the bundle was made from. {_SIZE_REMEDY}"
    )
    yield QualityViolation(InvalidReason.WRONG_SIZE, detail, "aspect_ratio", aspect, limit)


def frozen_frame_violation(repeats: int, limit: int) -> QualityViolation:
    """Return the violation of an image that repeats the previous ones byte by byte."""
    detail = (
        f"The camera repeats the same image: {repeats} images in a row are identical byte by byte, "
        f"the limit is {limit}."
    )
    return QualityViolation(InvalidReason.FROZEN_FRAME, detail, "repeats", repeats, limit)


_SIZE_REMEDY = (
    "Check the camera and the product; declare another size in the recipe under pixels.width and pixels.height."
)
_ADJECTIVES = {
    InvalidReason.UNDER_EXPOSED: "too dark",
    InvalidReason.OVER_EXPOSED: "too bright",
    InvalidReason.BLURRED: "blurred",
    InvalidReason.EMPTY_FRAME: "empty",
}


def _clipped(largest: float) -> float:
    return min(1.0, max(2 * largest, largest + CLIPPED_MARGIN))
