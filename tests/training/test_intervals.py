"""Confidence intervals: known values, coverage in simulations, and agreement with the figures."""

import numpy as np
import pytest
from scipy.stats import binomtest

from training import metrics
from training.intervals import auroc_interval, bootstrap_images, bootstrap_pixels, rate_interval


@pytest.mark.parametrize(("count", "total"), [(0, 10), (3, 10), (10, 10), (7, 300)])
def test_rates_have_clopper_pearson_intervals(count: int, total: int) -> None:
    expected = binomtest(count, total).proportion_ci(0.95, "exact")

    assert rate_interval(count, total) == pytest.approx((expected.low, expected.high), abs=1e-9)


@pytest.mark.parametrize(("shift", "good", "bad"), [(0.0, 10, 20), (1.0, 20, 20), (2.0, 15, 40)])
def test_auroc_intervals_cover_the_true_value(shift: float, good: int, bad: int) -> None:
    rng = np.random.default_rng(0)
    truth = metrics.auroc(rng.normal(0, 1, 40_000) + shift * (np.arange(40_000) % 2), np.arange(40_000) % 2 == 1)
    labels = np.arange(good + bad) >= good
    covered = 0
    for _ in range(400):
        low, high = auroc_interval(metrics.auroc(rng.normal(0, 1, good + bad) + shift * labels, labels), good, bad)
        covered += low <= truth <= high
    assert covered / 400 > 0.92


def test_perfect_auroc_of_few_images_is_not_certain() -> None:
    low, high = auroc_interval(1.0, 10, 20)
    more, _ = auroc_interval(1.0, 100, 200)

    assert 0.8 < low < 0.9 < more < high == 1.0
    assert auroc_interval(0.0, 10, 20)[0] == pytest.approx(0.0, abs=1e-9)


def test_bootstrap_surrounds_the_figure_and_narrows_with_more_images() -> None:
    def interval(count: int) -> tuple[float, float]:
        rng = np.random.default_rng(1)
        labels = np.arange(count) % 2 == 1
        scores = rng.normal(0, 1, count) + 1.5 * labels
        low, high = bootstrap_images(metrics.average_precision, scores, labels)
        assert low < metrics.average_precision(scores, labels) < high
        return low, high

    few, many = interval(30), interval(400)
    assert few[1] - few[0] > 2 * (many[1] - many[0])


def test_pixel_intervals_surround_the_figures() -> None:
    rng = np.random.default_rng(2)
    scores = metrics.PixelScores()
    for number in range(40):
        mask = np.zeros((60, 60), bool)
        if number % 2:
            y, x = rng.integers(0, 45, 2)
            mask[y : y + 12, x : x + 9] = True
        scores.add((rng.random(mask.shape) + mask * rng.uniform(0, 0.8)).astype(np.float32), mask)
    found = bootstrap_pixels(scores.images)
    figures = scores.figures()

    assert set(found) == {"pixel_auroc", "aupro", "pixel_average_precision", "pixel_f1_max"}
    for name, value in (
        ("pixel_auroc", figures.auroc),
        ("aupro", figures.aupro),
        ("pixel_average_precision", figures.average_precision),
        ("pixel_f1_max", figures.f1_max),
    ):
        low, high = found[name]
        assert low - 0.005 < value < high + 0.005, name
        assert 0 < high - low < 0.5, name
