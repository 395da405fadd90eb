"""The charts of the report as SVG coordinates: histograms of scores, curves of the evaluation, the training curve."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from service.inspection.decision import Thresholds
from training import metrics
from training.evaluate import Evaluation, ImageResult
from training.rates import rates_of_all
from training.run_record import CurvePoint

WIDTH, HEIGHT = 640, 240  # plot area, SVG units
BINS = 48
LOG_AXIS_FROM = 10.0  # an axis is logarithmic if the values span more than this factor
# Points of a curve that are closer than this share of both axes are drawn as one, which bounds the size of the file.
RESOLUTION = 1 / 1000
MAX_LOSSES = 4  # losses that are drawn: the one that is minimised and its parts


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

    title: str
    bars: list[Bar]
    ticks: list[Tick]
    share_ticks: list[Tick]
    fail_x: float
    review_x: float
    logarithmic: bool


@dataclass(frozen=True)
class Mark:
    """A point of a curve that belongs to a threshold, in SVG units."""

    x: float
    y: float
    label: str


@dataclass(frozen=True)
class Curve:
    """A curve in a square of side `HEIGHT`. The y axis is from 0 to 1.

    Attributes:
        title: What it is.
        remark: What a point of it is.
        x_axis, y_axis: Titles of the axes, with the unit.
        points: The points of an SVG polyline.
        chance: Points of the line that guessing would give.
        x_ticks: Ticks of the x axis.
        marks: The points of the two thresholds.
    """

    title: str
    remark: str
    x_axis: str
    y_axis: str
    points: str
    chance: str
    x_ticks: list[Tick]
    marks: list[Mark]


@dataclass(frozen=True)
class LossLine:
    """The course of one loss.

    Attributes:
        name: Name of the loss.
        points: The points of an SVG polyline.
        first, last: Its value in the first and in the last window of steps.
    """

    name: str
    points: str
    first: float
    last: float


@dataclass(frozen=True)
class TrainingChart:
    """The training curve: mean losses over windows of steps, in an area of `WIDTH` x `HEIGHT`."""

    lines: list[LossLine]
    ticks: list[Tick]
    loss_ticks: list[Tick]
    logarithmic: bool
    steps: int


UNIT_TICKS = [Tick(round(HEIGHT * share, 2), f"{share:.0%}") for share in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)]


class _Axis:
    """A scale from values to SVG units, logarithmic where the values span more than `LOG_AXIS_FROM`."""

    def __init__(self, low: float, high: float, length: int) -> None:
        self.logarithmic = bool(low > 0 and high / low > LOG_AXIS_FROM)
        self.low = math.log10(low) if self.logarithmic else low
        self.span = max((math.log10(high) if self.logarithmic else high) - self.low, 1e-12)
        self._length = length

    def scaled(self, values: Sequence[float] | np.ndarray) -> np.ndarray:
        """Return values on the scale of the axis, from `low` to `low + span`."""
        array = np.asarray(values, float)
        return np.log10(array) if self.logarithmic else array

    def position(self, value: float) -> float:
        """Return the position of a value, in SVG units from the start of the axis."""
        return round(float(self._length * (self.scaled([value])[0] - self.low) / self.span), 2)

    def ticks(self, count: int = 6, form: str = ".3g") -> list[Tick]:
        """Return evenly spaced ticks; their labels have the given number format."""
        marks = np.linspace(self.low, self.low + self.span, count)
        values = 10**marks if self.logarithmic else marks
        places = np.linspace(0, self._length, count)
        return [Tick(round(float(at), 2), f"{value:{form}}") for at, value in zip(places, values, strict=True)]


def histogram(evaluation: Evaluation) -> Histogram:
    """Compute the histogram of the scores of the test images, with the positions of the thresholds."""
    good = [image.score for image in evaluation.images if not image.defective]
    defective = [image.score for image in evaluation.images if image.defective]
    return _histogram("Histogram of the scores of the test images", good, defective, evaluation.recipe.thresholds)


def calibration_histogram(scores: Sequence[float], thresholds: Thresholds) -> Histogram:
    """Compute the histogram of the scores of the calibration card, with the positions of the thresholds."""
    return _histogram("Histogram of the scores of the held-out good images", scores, [], thresholds)


def _histogram(title: str, good: Sequence[float], defective: Sequence[float], thresholds: Thresholds) -> Histogram:
    values = [*good, *defective, thresholds.fail, thresholds.review]
    axis = _Axis(min(values), max(values), WIDTH)

    def heights(kind: Sequence[float]) -> np.ndarray:
        counts, _ = np.histogram(axis.scaled(kind), bins=BINS, range=(axis.low, axis.low + axis.span))
        return np.asarray(counts / max(1, len(kind)))

    of_good, of_defective = heights(good), heights(defective)
    tallest = float(max(of_good.max(), of_defective.max()))
    step = WIDTH / BINS
    bars = [
        Bar(round(index * step, 2), round(step, 2), round(HEIGHT * g / tallest, 2), round(HEIGHT * b / tallest, 2))
        for index, (g, b) in enumerate(zip(of_good, of_defective, strict=True))
    ]
    shares = [Tick(round(HEIGHT * part, 2), f"{100 * part * tallest:.3g} %") for part in (0.0, 0.5, 1.0)]
    fail_x, review_x = axis.position(thresholds.fail), axis.position(thresholds.review)
    return Histogram(title, bars, axis.ticks(), shares, fail_x, review_x, axis.logarithmic)


def roc(images: Sequence[ImageResult]) -> Curve:
    """Return the ROC curve of the image scores."""
    fpr, tpr = metrics.roc_curve(*_scores(images))
    good, defective = rates_of_all(images)
    return Curve(
        title="ROC curve",
        remark="One point per threshold of the image score.",
        x_axis="false-positive rate (% of good images)",
        y_axis="true-positive rate (% of defective)",
        points=_polyline(fpr, tpr),
        chance=_polyline([0, 1], [0, 1]),
        x_ticks=UNIT_TICKS,
        marks=[
            _mark(good.flagged.value, defective.flagged.value, "review"),
            _mark(good.fail.value, defective.fail.value, "fail"),
        ],
    )


def precision_recall(images: Sequence[ImageResult]) -> Curve:
    """Return the precision-recall curve of the image scores."""
    scores, is_defective = _scores(images)
    recall, precision = metrics.pr_curve(scores, is_defective)
    share = float(is_defective.mean())
    good, defective = rates_of_all(images)
    at_thresholds = (("review", good.flagged, defective.flagged), ("fail", good.fail, defective.fail))
    return Curve(
        title="Precision-recall curve",
        remark="One point per threshold of the image score.",
        x_axis="recall (% of defective images)",
        y_axis="precision (% of images above)",
        # From recall 0 on, at the precision of the highest score, as the average precision sums it.
        points=_polyline([0.0, *recall], [precision[0], *precision]),
        chance=_polyline([0, 1], [share, share]),
        x_ticks=UNIT_TICKS,
        marks=[
            _mark(found.value, found.count / (found.count + false.count), label)
            for label, false, found in at_thresholds
            if found.count + false.count
        ],
    )


def per_region_overlap(curve: tuple[metrics.Floats, metrics.Floats]) -> Curve:
    """Return the PRO curve of the anomaly maps.

    Args:
        curve: False-positive rate and mean per-region overlap, up to AUPRO's limit.
    """
    fpr, overlap = curve
    limit = metrics.AUPRO_FPR_LIMIT
    shares = np.linspace(0, limit, 4)
    return Curve(
        title="PRO curve",
        remark=f"One point per threshold of the anomaly map, up to AUPRO's limit of {limit:.0%}.",
        x_axis="false-positive rate (% of good pixels)",
        y_axis="overlap per region (mean, %)",
        points=_polyline(np.asarray(fpr) / limit, overlap),
        chance=_polyline([0, 1], [0, limit]),
        x_ticks=[Tick(round(float(HEIGHT * share / limit), 2), f"{share:.0%}") for share in shares],
        marks=[],
    )


def training_chart(curve: Sequence[CurvePoint]) -> TrainingChart | None:
    """Return the training curve; None if it has no point.

    Args:
        curve: The points of the run's record.
    """
    names = sorted({name for point in curve for name in point.losses}, key=lambda name: (name != "loss", name))
    names = names[:MAX_LOSSES]
    values = [point.losses[name] for point in curve for name in names if name in point.losses]
    if not values:
        return None
    last_step = curve[-1].step
    steps, losses = _Axis(0, last_step, WIDTH), _Axis(min(values), max(values), HEIGHT)
    lines = []
    for name in names:
        course = [(point.step, point.losses[name]) for point in curve if name in point.losses]
        points = [f"{steps.position(step):.2f},{HEIGHT - losses.position(value):.2f}" for step, value in course]
        # A line of one point is drawn as a dot, because its ends are round.
        lines.append(LossLine(name, " ".join(points if len(points) > 1 else points * 2), course[0][1], course[-1][1]))
    return TrainingChart(lines, steps.ticks(form=".0f"), losses.ticks(5), losses.logarithmic, last_step)


def _scores(images: Sequence[ImageResult]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([image.score for image in images]), np.array([image.defective for image in images])


def _mark(x: float, y: float, label: str) -> Mark:
    return Mark(round(HEIGHT * x, 2), round(HEIGHT * (1 - y), 2), label)


def _polyline(xs: Sequence[float] | np.ndarray, ys: Sequence[float] | np.ndarray) -> str:
    x, y = np.asarray(xs, float), np.asarray(ys, float)
    cells = np.stack([np.rint(x / RESOLUTION), np.rint(y / RESOLUTION)])
    kept = np.append(True, (np.diff(cells, axis=1) != 0).any(axis=0))
    kept[-1] = True
    return " ".join(f"{HEIGHT * a:.2f},{HEIGHT * (1 - b):.2f}" for a, b in zip(x[kept], y[kept], strict=True))
