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
    strongest = rgb.max(axis=2)
    mean, spread = cv2.meanStdDev(gray)
    red, green, blue, _ = cv2.mean(rgb)
    light = red + green + blue
    _, roughness = cv2.meanStdDev(cv2.Laplacian(gray, cv2.CV_16S))
    return Quality(
        brightness=float(mean[0, 0]),
        dark_share=float(np.count_nonzero(strongest <= DARK) / strongest.size),
        bright_share=float(np.count_nonzero(strongest >= SATURATED) / strongest.size),
        sharpness=float(roughness[0, 0]) ** 2,
        contrast=float(spread[0, 0]),
        red_share=red / light if light else 1 / 3,
        blue_share=blue / light if light else 1 / 3,
    )


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
