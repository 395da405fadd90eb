"""Is this image worth judging? What is measured of it, the limits, and the sentence that says which one it broke.

An image that is black, blurred or empty has a score like every other and deserves none: its verdict would be about the
camera, not about the part. Limits come from the bundle's calibration images, with margins wide enough that images
like these are never refused, and narrow enough that a lamp that is out or a lens that is out of focus is noticed.

Nothing heavy is imported here: recipes and the client know these names, too. `measures.py` measures.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from service.schemas.sections import InvalidReason as InvalidReason

if TYPE_CHECKING:
    from service.bundle.card import QualityStatistics

# Margins around the calibration images. An image is refused beyond them.
EXPOSURE_MARGIN = 0.5  # brightness: half way from the outermost calibration image to black, or to white
CLIPPED_MARGIN = 0.05  # clipped pixels: twice the largest share, and at least this much more
DETAIL_MARGIN = 0.25  # sharpness and contrast: a quarter of the smallest
# Gray levels. Without calibration images: less is no image of anything, but noise on a lid or a dark room.
EMPTY_CONTRAST = 1.0


@dataclass(frozen=True)
class Quality:
    """What is measured of an image, on the size that the network sees.

    Attributes:
        brightness: Mean gray level, 0 to 255.
        dark_share: Share of pixels that are black in every channel (at most 2 of 255).
        bright_share: Share of pixels that are saturated in some channel (at least 253 of 255).
        sharpness: Variance of the Laplacian of the gray image.
        contrast: Standard deviation of the gray levels.
    """

    brightness: float
    dark_share: float
    bright_share: float
    sharpness: float
    contrast: float


@dataclass(frozen=True)
class QualityLimits:
    """Beyond which an image is not judged; None checks nothing.

    Attributes:
        min_brightness, max_brightness: Of the mean gray level.
        max_dark_share, max_bright_share: Of clipped pixels.
        min_sharpness: Of the Laplacian's variance.
        min_contrast: Of the gray levels' standard deviation.
        width, height: The expected size of the image as it is sent, in pixels.
    """

    min_brightness: float | None = None
    max_brightness: float | None = None
    max_dark_share: float | None = None
    max_bright_share: float | None = None
    min_sharpness: float | None = None
    min_contrast: float | None = None
    width: int | None = None
    height: int | None = None


@dataclass(frozen=True)
class QualityViolation:
    """One reason not to judge an image.

    Attributes:
        reason: Its code.
        detail: A sentence with the measured value and the limit.
        measure: What was measured, a field of `Quality`, or "width", "height", "repeats".
        measured: The value.
        limit: What it broke.
    """

    reason: InvalidReason
    detail: str
    measure: str
    measured: float
    limit: float

    def to_stored(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self) | {"reason": self.reason.value}


def derive_limits(statistics: QualityStatistics | None) -> QualityLimits:
    """The limits of a bundle.

    Args:
        statistics: Of its calibration images; None for a bundle that was made before they were measured: then only an
            empty frame is noticed.
    """
    if statistics is None:
        return QualityLimits(min_contrast=EMPTY_CONTRAST)
    return QualityLimits(
        min_brightness=EXPOSURE_MARGIN * statistics.brightness.low,
        max_brightness=255 - EXPOSURE_MARGIN * (255 - statistics.brightness.high),
        max_dark_share=_clipped(statistics.dark_share.high),
        max_bright_share=_clipped(statistics.bright_share.high),
        min_sharpness=DETAIL_MARGIN * statistics.sharpness.low,
        min_contrast=DETAIL_MARGIN * statistics.contrast.low,
    )


def find_violations(quality: Quality, image_wh: tuple[int, int], limits: QualityLimits) -> tuple[QualityViolation, ...]:
    """Everything that speaks against judging an image; nothing where it is as images of this product are.

    Args:
        quality: What was measured.
        image_wh: Width and height of the image as it was sent.
        limits: The product's.
    """
    violations = []
    for measure, measured, expected in (("width", image_wh[0], limits.width), ("height", image_wh[1], limits.height)):
        if expected is not None and measured != expected:
            detail = f"The image's {measure} is {measured} pixels, the recipe declares {expected}."
            violations.append(QualityViolation(InvalidReason.WRONG_SIZE, detail, measure, measured, expected))
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


def frozen_frame_violation(repeats: int, limit: int) -> QualityViolation:
    """The violation to an image that is, byte by byte, the one before."""
    detail = (
        f"The camera sends the same image again and again: {repeats} in a row are equal byte by byte, "
        f"{limit} is the limit."
    )
    return QualityViolation(InvalidReason.FROZEN_FRAME, detail, "repeats", repeats, limit)


_ADJECTIVES = {
    InvalidReason.UNDER_EXPOSED: "too dark",
    InvalidReason.OVER_EXPOSED: "too bright",
    InvalidReason.BLURRED: "blurred",
    InvalidReason.EMPTY_FRAME: "empty",
}


def _clipped(largest: float) -> float:
    return min(1.0, max(2 * largest, largest + CLIPPED_MARGIN))
