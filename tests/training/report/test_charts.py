"""The charts of the report: bounded in size and true to the figures."""

from pathlib import Path

import numpy as np
import pytest

from service.inspection.decision import Decision, Thresholds
from training import metrics
from training.evaluate import ImageResult
from training.report.charts import calibration_histogram, per_region_overlap, precision_recall, roc, training_chart
from training.run_record import CurvePoint


def points_of(polyline: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in (point.split(",") for point in polyline.split())]


def area(polyline: str, side: float) -> float:
    x, y = np.array(points_of(polyline)).T
    return float(np.trapezoid(side - y, x) / side**2)


def test_area_under_the_pro_curve_is_aupro() -> None:
    rng = np.random.default_rng(0)
    scores = metrics.PixelScores()
    for _ in range(3):
        mask = np.zeros((40, 40), bool)
        mask[5:15, 8:20] = mask[25:30, 25:28] = True
        scores.add((rng.normal(0, 1, mask.shape) + 1.5 * mask).astype(np.float32), mask)
    figures = scores.figures()

    chart = per_region_overlap(figures.pro_curve)

    assert area(chart.points, 240) == pytest.approx(figures.aupro, abs=2e-3)
    assert [tick.label for tick in chart.x_ticks] == ["0%", "10%", "20%", "30%"]
    assert points_of(chart.points)[-1][0] == 240


def test_curves_of_many_points_stay_small_and_keep_their_shape() -> None:
    x = np.linspace(0, 0.3, 1_000_000)
    y = np.sqrt(x)

    chart = per_region_overlap((x, y))

    assert len(points_of(chart.points)) < 2500
    assert area(chart.points, 240) == pytest.approx(np.trapezoid(y, x) / 0.3, abs=1e-3)


def test_histogram_of_the_calibration_has_every_score_below_the_fail_threshold() -> None:
    scores = [1.0, 1.1, 1.2, 1.3, 2.0]

    chart = calibration_histogram(scores, Thresholds(fail=2.0, review=1.3))

    assert max(bar.good for bar in chart.bars) == 240
    assert sum(bar.good for bar in chart.bars) == pytest.approx(5 * 240, abs=0.1)
    assert not any(bar.defective for bar in chart.bars)
    assert chart.review_x == pytest.approx(640 * 0.3, abs=0.01)
    assert chart.fail_x == 640


def test_histogram_of_equal_scores_is_drawn() -> None:
    chart = calibration_histogram([1.0] * 4, Thresholds(fail=1.0, review=1.0))

    assert max(bar.good for bar in chart.bars) == 240


def test_training_chart_has_the_loss_first_and_a_logarithmic_axis_if_it_falls_far() -> None:
    curve = [CurvePoint(step=step, losses={"distil": 40 / step, "loss": 100 / step}) for step in (1, 10, 100)]

    chart = training_chart(curve)

    assert chart is not None
    assert [line.name for line in chart.lines] == ["loss", "distil"]
    assert chart.logarithmic
    assert points_of(chart.lines[0].points) == [(6.4, 0.0), (64.0, 100.09), (640.0, 200.17)]
    assert [tick.label for tick in chart.ticks] == ["0", "20", "40", "60", "80", "100"]


def test_training_chart_of_one_point_is_a_dot() -> None:
    chart = training_chart([CurvePoint(step=3, losses={"loss": -0.5})])

    assert chart is not None
    first, last = points_of(chart.lines[0].points)
    assert first == last
    assert not chart.logarithmic


def test_there_is_no_chart_without_losses() -> None:
    assert training_chart([]) is None
    assert training_chart([CurvePoint(step=3, losses={})]) is None


def test_both_thresholds_are_marked_on_the_curves() -> None:
    images = [result("good", Decision.PASS, 1)] * 6
    images += [result("good", Decision.REVIEW, 2), result("good", Decision.FAIL, 3)]
    images += [result("dent", Decision.PASS, 1), result("dent", Decision.REVIEW, 2)]
    images += [result("dent", Decision.FAIL, 4)] * 2

    assert {mark.label: (mark.x, mark.y) for mark in roc(images).marks} == {
        "fail": (30, 120),
        "review": (60, 60),
    }
    assert {mark.label: (mark.x, mark.y) for mark in precision_recall(images).marks} == {
        "fail": (120, 80),
        "review": (180, 96),
    }
    nothing = [result("good", Decision.PASS, 1), result("dent", Decision.PASS, 2)]
    assert precision_recall(nothing).marks == [], "nothing fails, so there is no precision"


def result(defect: str, decision: Decision, score: float) -> ImageResult:
    return ImageResult(Path(f"{defect}.png"), defect, defect != "good", score, 0.5, decision)
