"""The plots of the report: histogram of the scores, ROC curve and precision-recall curve, as SVG coordinates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from training import metrics
from training.evaluate import Evaluation, ImageResult

WIDTH, HEIGHT = 640, 240  # plot area, SVG units
BINS = 48
LOG_AXIS_FROM = 10.0  # the axis is logarithmic if the scores span more than this factor


@dataclass(frozen=True)
class Bar:
    """One bar of the histogram, in SVG units from the upper left corner."""

    x: float
    width: float
    good: float
    defective: float


@dataclass(frozen=True)
class Tick:
    """A tick of an axis, at `position` in SVG units."""

    position: float
    label: str


@dataclass(frozen=True)
class Histogram:
    """Histogram of the scores of good and defective parts.

    Bar heights are shares of each kind, scaled to the highest bar; positions are in SVG units.
    """

    bars: list[Bar]
    ticks: list[Tick]
    share_ticks: list[Tick]
    fail_x: float
    review_x: float
    logarithmic: bool


@dataclass(frozen=True)
class Curve:
    """A curve in a square of side `HEIGHT`, both axes from 0 to 1.

    Attributes:
        title: What it is.
        x_axis, y_axis: Titles of the axes, with the unit.
        points: The points of an SVG polyline.
        chance: Points of the line that guessing would give.
    """

    title: str
    x_axis: str
    y_axis: str
    points: str
    chance: str


UNIT_TICKS = [Tick(round(HEIGHT * share, 2), f"{share:.0%}") for share in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)]


def histogram(evaluation: Evaluation) -> Histogram:
    """Compute the histogram of the scores, with the positions of the thresholds."""
    scores = np.array([image.score for image in evaluation.images])
    defective = np.array([image.defective for image in evaluation.images])
    thresholds = (evaluation.recipe.fail_threshold, evaluation.recipe.review_threshold)
    low, high = min(scores.min(), *thresholds), max(scores.max(), *thresholds)
    logarithmic = bool(low > 0 and high / low > LOG_AXIS_FROM)
    if logarithmic:
        scores, low, high = np.log10(scores), math.log10(low), math.log10(high)
    span = max(high - low, 1e-12)

    def x_of(value: float) -> float:
        return round(float(WIDTH * ((math.log10(value) if logarithmic else value) - low) / span), 2)

    def heights(kind: np.ndarray) -> np.ndarray:
        counts, _ = np.histogram(kind, bins=BINS, range=(low, low + span))
        return np.asarray(counts / len(kind))

    good, bad = heights(scores[~defective]), heights(scores[defective])
    tallest = float(max(good.max(), bad.max()))
    step = WIDTH / BINS
    bars = [
        Bar(round(index * step, 2), round(step, 2), round(HEIGHT * g / tallest, 2), round(HEIGHT * b / tallest, 2))
        for index, (g, b) in enumerate(zip(good, bad, strict=True))
    ]
    marks = np.linspace(low, low + span, 6)
    values = 10**marks if logarithmic else marks
    ticks = [Tick(round(WIDTH * index / 5, 2), f"{value:.3g}") for index, value in enumerate(values)]
    shares = [Tick(round(HEIGHT * part, 2), f"{100 * part * tallest:.3g} %") for part in (0.0, 0.5, 1.0)]
    return Histogram(bars, ticks, shares, x_of(thresholds[0]), x_of(thresholds[1]), logarithmic)


def roc(images: Sequence[ImageResult]) -> Curve:
    """Return the ROC curve of the image scores."""
    fpr, tpr = metrics.roc_curve(*_scores(images))
    return Curve(
        title="ROC curve",
        x_axis="false-positive rate (% of good images)",
        y_axis="true-positive rate (% of defective)",
        points=_polyline(fpr, tpr),
        chance=_polyline([0, 1], [0, 1]),
    )


def precision_recall(images: Sequence[ImageResult]) -> Curve:
    """Return the precision-recall curve of the image scores."""
    scores, defective = _scores(images)
    recall, precision = metrics.pr_curve(scores, defective)
    share = float(defective.mean())
    return Curve(
        title="Precision-recall curve",
        x_axis="recall (% of defective images)",
        y_axis="precision (% of images above)",
        # From recall 0 on, at the precision of the highest score, as the average precision sums it.
        points=_polyline([0.0, *recall], [precision[0], *precision]),
        chance=_polyline([0, 1], [share, share]),
    )


def _scores(images: Sequence[ImageResult]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([image.score for image in images]), np.array([image.defective for image in images])


def _polyline(xs: Sequence[float] | np.ndarray, ys: Sequence[float] | np.ndarray) -> str:
    return " ".join(f"{HEIGHT * x:.2f},{HEIGHT * (1 - y):.2f}" for x, y in zip(xs, ys, strict=True))
