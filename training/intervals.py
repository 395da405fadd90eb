"""95 % confidence intervals of the figures of an evaluation.

Each figure is that of the test images at hand; the interval shows where it would be for other test images of the same
kind. Image AUROC: the score interval with the variance of Hanley & McNeil (1982), method 5 of Newcombe (Statistics in
Medicine 25, 2006), which is not empty for an AUROC of 1. Rates: Clopper & Pearson (1934). All other figures: the
percentile bootstrap over test images (Efron 1979), with good and defective images resampled separately.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv  # scipy.stats, which has it as beta.ppf, takes half a second to import

from training import metrics

Interval = tuple[float, float]
Z = 1.959964  # of a two-sided 95 % interval
REPLICATES = 400
BINS = 2048  # quantiles of the map values between which the pixel figures are interpolated

METHODS = (
    "Image AUROC: Hanley-McNeil score interval (Newcombe 2006, method 5). Rates: Clopper-Pearson. Other figures: "
    f"percentile bootstrap over the test images, {REPLICATES} replicates, seed 0; it has no width where the sample "
    "is separated perfectly."
)


def auroc_interval(auroc: float, good: int, defective: int) -> Interval:
    """Return the interval of an AUROC.

    Args:
        auroc: The AUROC of the sample.
        good: Number of good images.
        defective: Number of defective images.
    """
    star = (good + defective) / 2 - 1

    def error(theta: float) -> float:
        spread = 1 + star * (1 - theta) / (2 - theta) + star * theta / (1 + theta)
        return float(Z * np.sqrt(theta * (1 - theta) * spread / (good * defective)))

    def bisect(low: float, high: float, is_inside: Callable[[float], bool]) -> float:
        """Return the border between `high`, which is inside, and values outside."""
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (low, middle) if is_inside(middle) else (middle, high)
        return high

    lower = bisect(0.0, auroc, lambda theta: auroc - theta <= error(theta))
    upper = bisect(1.0, auroc, lambda theta: theta - auroc <= error(theta))
    return lower, upper


def rate_interval(count: int, total: int) -> Interval:
    """Return the Clopper-Pearson interval of `count` among `total`."""
    lower = 0.0 if count == 0 else float(betaincinv(count, total - count + 1, 0.025))
    upper = 1.0 if count == total else float(betaincinv(count + 1, total - count, 0.975))
    return lower, upper


def bootstrap_images(
    figure: Callable[[NDArray[np.float64], NDArray[np.bool_]], float],
    scores: NDArray[np.float64],
    defective: NDArray[np.bool_],
    seed: int = 0,
) -> Interval:
    """Return the bootstrap interval of a figure of image scores.

    Args:
        figure: Computes the figure from scores and labels.
        scores: float64 `[N]`.
        defective: bool `[N]`.
        seed: Seed of the resampling.
    """
    rng = np.random.default_rng(seed)
    kinds = [np.flatnonzero(~defective), np.flatnonzero(defective)]
    values = []
    for _ in range(REPLICATES):
        chosen = np.concatenate([rng.choice(kind, len(kind)) for kind in kinds])
        values.append(figure(scores[chosen], defective[chosen]))
    return _percentiles(values)


@dataclass(frozen=True)
class _Counts:
    """Share of pixels at and above each bin, per image, highest bin first; `[N, BINS]` each.

    Attributes:
        good: Number of good pixels.
        bad: Number of defective pixels.
        overlap: Sum over the regions of the image of their share at and above the bin.
        regions: Number of regions, `[N]`.
    """

    good: NDArray[np.float64]
    bad: NDArray[np.float64]
    overlap: NDArray[np.float64]
    regions: NDArray[np.float64]


def bootstrap_pixels(images: Sequence[metrics.ImagePixels], seed: int = 0) -> dict[str, Interval]:
    """Return the bootstrap intervals of the pixel figures.

    The curves are computed on `BINS` quantiles of the map values, so that a replicate needs sums only. The error of
    this is far below the width of the intervals.

    Args:
        images: The values of every image, as `metrics.PixelScores` collects them.
        seed: Seed of the resampling.
    """
    counts = _binned(images)
    rng = np.random.default_rng(seed)
    is_defective = counts.regions > 0
    kinds = [np.flatnonzero(~is_defective), np.flatnonzero(is_defective)]
    values: dict[str, list[float]] = {"pixel_auroc": [], "aupro": [], "pixel_average_precision": [], "pixel_f1_max": []}
    for _ in range(REPLICATES):
        chosen = np.concatenate([rng.choice(kind, len(kind)) for kind in kinds])
        for name, value in _figures(counts, np.bincount(chosen, minlength=len(is_defective))).items():
            values[name].append(value)
    return {name: _percentiles(found) for name, found in values.items()}


def _binned(images: Sequence[metrics.ImagePixels]) -> _Counts:
    # Quantiles of defective pixels as well, because curves bend at their scores.
    rng = np.random.default_rng(0)
    parts = [values if len(values) <= 4096 else rng.choice(values, 4096) for image in images for values in image[:2]]
    edges = np.unique(np.quantile(np.concatenate(parts), np.linspace(0, 1, BINS)))

    def cumulated(values: NDArray[np.float32], weights: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
        places = np.maximum(np.searchsorted(edges, values, side="right") - 1, 0)
        return np.cumsum(np.bincount(places, weights, minlength=len(edges))[::-1]).astype(np.float64)

    return _Counts(
        good=np.stack([cumulated(image.good) for image in images]),
        bad=np.stack([cumulated(image.bad) for image in images]),
        overlap=np.stack([cumulated(image.bad, image.weights) for image in images]),
        regions=np.array([image.weights.sum() for image in images]),
    )


def _figures(counts: _Counts, times: NDArray[np.int64]) -> dict[str, float]:
    """Return the pixel figures of a resampled test set, in which image i occurs `times[i]` times."""
    good, bad, overlap = (times @ array for array in (counts.good, counts.bad, counts.overlap))
    fpr, recall = good / good[-1], bad / bad[-1]
    pro = overlap / (times @ counts.regions)
    precision = bad / np.maximum(bad + good, 1)
    limit = metrics.AUPRO_FPR_LIMIT
    end = int(np.searchsorted(fpr, limit, side="right"))
    xs = np.concatenate([[0.0], fpr[:end], [limit]])
    ys = np.concatenate([[0.0], pro[:end], [float(np.interp(limit, fpr, pro))]])
    return {
        "pixel_auroc": float(np.trapezoid(np.concatenate([[0.0], recall]), np.concatenate([[0.0], fpr]))),
        "aupro": float(np.trapezoid(ys, xs) / limit),
        "pixel_average_precision": float(np.sum(np.diff(recall, prepend=0) * precision)),
        "pixel_f1_max": float(np.max(2 * bad / (bad + good + bad[-1]))),
    }


def _percentiles(values: Sequence[float]) -> Interval:
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)
