"""Measure the quality of an image. Calibration and serving use the same functions."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import fields

import cv2
import numpy as np
import numpy.typing as npt

from service.bundle.card import MeasureRange, QualityStatistics, QualityValues
from service.inspection.quality import Quality

DARK = 2
SATURATED = 253


def measure_quality(rgb: npt.NDArray[np.uint8]) -> Quality:
    """Measure exposure, sharpness, contrast and colour.

    Args:
        rgb: uint8 [H, W, 3], of the size of the network's input. At this size the images of a product are comparable,
            and measuring takes a fraction of a millisecond at any camera resolution.
    """
    gray = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    mean, spread = cv2.meanStdDev(gray)
    _, roughness = cv2.meanStdDev(cv2.Laplacian(gray, cv2.CV_16S))
    # Separate channels: OpenCV has vector instructions for each of the following steps only on one channel, and numpy
    # has none for the maximum over the last axis of an image, which takes ten times as long as everything here.
    first, second, third = cv2.split(rgb)
    red, green, blue = (cv2.sumElems(channel)[0] * (1 / gray.size) for channel in (first, second, third))
    light = red + green + blue
    strongest = cv2.max(cv2.max(first, second, dst=first), third, dst=first)
    return Quality(
        brightness=float(mean[0, 0]),
        dark_share=(gray.size - _count_above(strongest, DARK)) / gray.size,
        bright_share=_count_above(strongest, SATURATED - 1) / gray.size,
        sharpness=float(roughness[0, 0]) ** 2,
        contrast=float(spread[0, 0]),
        red_share=red / light if light else 1 / 3,
        blue_share=blue / light if light else 1 / 3,
    )


def _count_above(channel: cv2.typing.MatLike, level: int) -> int:
    return cv2.countNonZero(cv2.threshold(channel, level, 1, cv2.THRESH_BINARY)[1])


def summarise(qualities: Sequence[Quality]) -> QualityStatistics:
    """Summarise the quality of the held-out good images; the limits of the quality check are derived from it.

    Args:
        qualities: The quality of each image, at least one.
    """
    ranges = {}
    for measure in (field.name for field in fields(Quality)):
        values = [getattr(quality, measure) for quality in qualities]
        ranges[measure] = MeasureRange(low=min(values), median=statistics.median(values), high=max(values))
    return QualityStatistics(images=len(qualities), **ranges)


def list_values(qualities: Sequence[Quality]) -> QualityValues:
    """Return the measures of each image, from which drift is found.

    Args:
        qualities: The quality of each image, in the order of the scores on the calibration card.
    """
    names = QualityValues.model_fields
    return QualityValues(**{name: [getattr(quality, name) for quality in qualities] for name in names})
