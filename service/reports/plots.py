"""Charts of the report as coordinates of SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from service.schemas.records import SummaryGroup
from service.schemas.report import ScoreDistribution
from service.schemas.sections import DecisionName

WIDTH = 640
HEIGHT = 160
_STACK: tuple[DecisionName, ...] = ("pass", "review", "fail", "invalid")
_MAX_LABELS = 12


@dataclass(frozen=True)
class Bar:
    """A rectangle of a bar chart.

    Attributes:
        kind: The decision; for scores, the side of the thresholds on which the bin begins.
    """

    kind: DecisionName
    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class PeriodChart:
    """Stacked counts by hour or day.

    Attributes:
        bars: The rectangles.
        labels: Horizontal position and group of the groups that are labelled.
        most: The count at the upper edge.
    """

    bars: Sequence[Bar]
    labels: Sequence[tuple[float, SummaryGroup]]
    most: int


@dataclass(frozen=True)
class ScoreChart:
    """A histogram of scores. The heights are proportional to the square roots of the counts.

    Attributes:
        bars: The rectangles.
        thresholds: Horizontal position of the review and of the fail threshold.
        most: The count at the upper edge.
        end: The score at the right edge.
    """

    bars: Sequence[Bar]
    thresholds: Mapping[DecisionName, float]
    most: int
    end: float


def period_chart(groups: Sequence[SummaryGroup]) -> PeriodChart:
    """Return the chart of the counts by hour or day."""
    most = max((group.total for group in groups), default=0)
    step = WIDTH / max(1, len(groups))
    bars = []
    for number, group in enumerate(groups):
        top = float(HEIGHT)
        for kind in _STACK:
            height = HEIGHT * group.counts[kind] / most if most else 0.0
            top -= height
            if height:
                bars.append(Bar(kind, _round(number * step), _round(top), _round(step * 0.85), _round(height)))
    every = max(1, -(-len(groups) // _MAX_LABELS))
    labels = [(_round((number + 0.42) * step), groups[number]) for number in range(0, len(groups), every)]
    return PeriodChart(bars, labels, most)


def score_chart(scores: ScoreDistribution) -> ScoreChart | None:
    """Return the histogram of a distribution; None without bins."""
    if not scores.counts or scores.bin_width <= 0:
        return None
    most, bins = max(scores.counts), len(scores.counts)
    step, end = WIDTH / bins, bins * scores.bin_width
    bars = []
    for number, count in enumerate(scores.counts):
        # The middle decides, so that rounding cannot move a bin to the other side of a threshold at its edge.
        middle = (number + 0.5) * scores.bin_width
        if middle > scores.fail_threshold:
            kind: DecisionName = "fail"
        else:
            kind = "review" if middle > scores.review_threshold else "pass"
        height = HEIGHT * (count / most) ** 0.5 if most else 0.0
        if count:
            bars.append(Bar(kind, _round(number * step), _round(HEIGHT - height), _round(step * 0.9), _round(height)))
    thresholds: dict[DecisionName, float] = {
        "review": _round(WIDTH * min(1.0, max(0.0, scores.review_threshold / end))),
        "fail": _round(WIDTH * scores.fail_threshold / end),
    }
    return ScoreChart(bars, thresholds, most, end)


def _round(value: float) -> float:
    return round(value, 2)
