"""Threshold-free metrics of detection and localisation, computed exactly.

Pixel metrics are computed over the whole data set at once: pixels of good images count as negatives, and one threshold
applies to all images. Several published scripts compute PRO for each defective image and average it, which gives a
different and higher value. Scores are not normalised before they are compared.

Memory for a few hundred images at camera size stays bounded because the curves change their slope only at the scores
of *defective* pixels, which are few. The scores of good pixels are kept in one sorted float32 array and searched.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
AUPRO_FPR_LIMIT = 0.3  # MVTec AD's integration limit


def auroc(scores: Floats, defective: NDArray[np.bool_]) -> float:
    """Compute the area under the ROC curve; ties count half.

    Args:
        scores: float `[N]`, higher means more anomalous.
        defective: bool `[N]`, true for defective.

    Returns:
        A value in [0, 1].

    Raises:
        ValueError: the shapes differ, or one of the two classes is absent.
    """
    good, bad = _split(scores, defective)
    good.sort()
    return _auroc(good, bad)


def average_precision(scores: Floats, defective: NDArray[np.bool_]) -> float:
    """Compute the area under the precision-recall curve as a step function.

    Equals scikit-learn's `average_precision_score`.

    Args:
        scores: float `[N]`, higher means more anomalous.
        defective: bool `[N]`, true for defective.

    Returns:
        A value in [0, 1].

    Raises:
        ValueError: the shapes differ, or one of the two classes is absent.
    """
    good, bad = _split(scores, defective)
    good.sort()
    return _counts(good, bad).average_precision()


def f1_max(scores: Floats, defective: NDArray[np.bool_]) -> float:
    """Compute the largest F1 score over all thresholds.

    Args:
        scores: float `[N]`, higher means more anomalous.
        defective: bool `[N]`, true for defective.

    Returns:
        A value in [0, 1].

    Raises:
        ValueError: the shapes differ, or one of the two classes is absent.
    """
    good, bad = _split(scores, defective)
    good.sort()
    return _counts(good, bad).f1_max()


def roc_curve(scores: Floats, defective: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Compute the ROC curve, with one point for each distinct score.

    Args:
        scores: float `[N]`, higher means more anomalous.
        defective: bool `[N]`, true for defective.

    Returns:
        False-positive and true-positive rates, float `[K]` each, from 0 to 1.

    Raises:
        ValueError: the shapes differ, or one of the two classes is absent.
    """
    good, bad = _split(scores, defective)
    good.sort()
    bad.sort()
    thresholds = np.unique(np.concatenate([good, bad]))[::-1]
    fpr = 1.0 - np.searchsorted(good, thresholds, side="left") / len(good)
    tpr = 1.0 - np.searchsorted(bad, thresholds, side="left") / len(bad)
    return np.concatenate([[0.0], fpr]), np.concatenate([[0.0], tpr])


def pr_curve(scores: Floats, defective: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Compute the precision-recall curve, with one point for each distinct score of a defective item.

    Args:
        scores: float `[N]`, higher means more anomalous.
        defective: bool `[N]`, true for defective.

    Returns:
        Recall and precision, float `[K]` each, recall ascending.

    Raises:
        ValueError: the shapes differ, or one of the two classes is absent.
    """
    good, bad = _split(scores, defective)
    good.sort()
    counts = _counts(good, bad)
    found = counts.true_positives
    return found / found[-1], found / (found + counts.false_positives)


class ImagePixels(NamedTuple):
    """The map values of one image.

    Attributes:
        good: float32 `[K]`, values of good pixels.
        bad: float32 `[L]`, values of defective pixels.
        weights: float64 `[L]`, one over the area of each defective pixel's region.
    """

    good: NDArray[np.float32]
    bad: NDArray[np.float32]
    weights: NDArray[np.float64]


class PixelScores:
    """Accumulator of anomaly maps and masks, image by image, for the pixel metrics.

    Attributes:
        images: the values of every image so far; `figures` merges them.
        regions: number of defective regions so far.
    """

    def __init__(self) -> None:
        self.images: list[ImagePixels] = []
        self.regions = 0

    def add(self, anomaly_map: NDArray[np.float32], mask: NDArray[np.bool_]) -> None:
        """Add one image.

        Args:
            anomaly_map: float32 `[h, w]`; resized bilinearly to the size of the mask if that differs.
            mask: bool `[H, W]`, true where defective; all false for a good image.
        """
        height, width = mask.shape
        if anomaly_map.shape != mask.shape:
            resized = cv2.resize(anomaly_map, (width, height), interpolation=cv2.INTER_LINEAR)
            anomaly_map = np.asarray(resized, np.float32)
        good, bad = anomaly_map[~mask], anomaly_map[mask]
        if not len(bad):
            self.images.append(ImagePixels(good, bad, np.zeros(0)))
            return
        # 8-connected regions, as in the evaluation code of MVTec AD.
        count, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
        inside = labels[mask]
        areas = np.bincount(inside, minlength=count)
        self.images.append(ImagePixels(good, bad, 1.0 / areas[inside]))
        self.regions += count - 1

    def figures(self, fpr_limit: float = AUPRO_FPR_LIMIT) -> PixelFigures:
        """Compute the pixel metrics of all images added so far.

        Args:
            fpr_limit: upper limit of AUPRO's integration, a false-positive rate in (0, 1].

        Returns:
            The metrics.

        Raises:
            ValueError: no defective or no good pixel was added.
        """
        if not self.regions or not any(len(image.good) for image in self.images):
            raise ValueError("pixel metrics need defective and good pixels")
        good, bad, weights = (np.concatenate(part) for part in zip(*self.images, strict=True))
        self.images = [ImagePixels(good, bad, weights)]  # frees the parts before sorting
        good.sort()
        counts = _counts(good, bad, weights / self.regions)
        fpr, overlap = counts.pro_curve(fpr_limit)
        return PixelFigures(
            auroc=_auroc(good, bad),
            average_precision=counts.average_precision(),
            f1_max=counts.f1_max(),
            aupro=float(np.trapezoid(overlap, fpr) / fpr_limit),
            regions=self.regions,
            pro_curve=(fpr, overlap),
        )


@dataclass(frozen=True)
class PixelFigures:
    """Pixel metrics over a data set.

    Attributes:
        auroc: area under the ROC curve, in [0, 1].
        average_precision: area under the precision-recall curve, in [0, 1].
        f1_max: largest F1 score over all thresholds, in [0, 1].
        aupro: area under the per-region overlap curve up to the limit, divided by the limit, in [0, 1].
        regions: number of defective regions.
        pro_curve: false-positive rate and mean per-region overlap, float `[K]` each, up to AUPRO's limit.
    """

    auroc: float
    average_precision: float
    f1_max: float
    aupro: float
    regions: int
    pro_curve: tuple[Floats, Floats] = field(repr=False, compare=False)


@dataclass(frozen=True)
class _Counts:
    """Counts at and above each distinct score of a defective item, highest score first; all `[K]`."""

    true_positives: NDArray[np.int64]  # defective >= score
    false_positives: NDArray[np.int64]  # good >= score
    strictly_false: NDArray[np.int64]  # good > score
    overlap: NDArray[np.float64]  # mean fraction of a region at or above the score
    good: int

    def average_precision(self) -> float:
        recall_steps = np.diff(self.true_positives, prepend=0) / self.true_positives[-1]
        precision = self.true_positives / (self.true_positives + self.false_positives)
        return float(np.sum(recall_steps * precision))

    def f1_max(self) -> float:
        found = self.true_positives
        return float(np.max(2 * found / (found + self.false_positives + found[-1])))

    def pro_curve(self, fpr_limit: float) -> tuple[Floats, Floats]:
        # Each score contributes two corners: just above it, with the previous overlap, and at it. Good pixels with the
        # same score lie between the two and give a slope; between two scores the curve is flat.
        fpr = np.stack([self.strictly_false, self.false_positives], axis=1).ravel() / self.good
        before = np.concatenate([[0.0], self.overlap[:-1]])
        overlap = np.stack([before, self.overlap], axis=1).ravel()
        fpr = np.concatenate([[0.0], fpr, [1.0]])
        overlap = np.concatenate([[0.0], overlap, [1.0]])
        end = int(np.searchsorted(fpr, fpr_limit, side="right"))
        if end < len(fpr):  # cut the segment that crosses the limit
            share = (fpr_limit - fpr[end - 1]) / (fpr[end] - fpr[end - 1])
            cut = overlap[end - 1] + share * (overlap[end] - overlap[end - 1])
            fpr, overlap = np.append(fpr[:end], fpr_limit), np.append(overlap[:end], cut)
        return fpr, overlap


def _split(scores: Floats, defective: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    scores, defective = np.asarray(scores), np.asarray(defective, dtype=bool)
    if scores.shape != defective.shape:
        raise ValueError(f"scores {scores.shape} and labels {defective.shape} differ in shape")
    good, bad = scores[~defective], scores[defective]
    if not len(good) or not len(bad):
        raise ValueError("both good and defective items are needed")
    return good, bad


def _auroc(sorted_good: Floats, bad: Floats) -> float:
    below = np.searchsorted(sorted_good, bad, side="left")
    not_above = np.searchsorted(sorted_good, bad, side="right")
    pairs = float(len(bad)) * len(sorted_good)
    return float(below.sum(dtype=np.float64) + not_above.sum(dtype=np.float64)) / 2 / pairs


def _counts(sorted_good: Floats, bad: Floats, weights: NDArray[np.float64] | None = None) -> _Counts:
    order = np.argsort(bad, kind="stable")[::-1]
    bad = bad[order]
    last_of_score = np.append(np.flatnonzero(np.diff(bad)), len(bad) - 1)
    distinct = bad[last_of_score]
    overlap = np.cumsum(weights[order])[last_of_score] if weights is not None else np.zeros(len(distinct))
    good = len(sorted_good)
    return _Counts(
        true_positives=last_of_score.astype(np.int64) + 1,
        false_positives=good - np.searchsorted(sorted_good, distinct, side="left"),
        strictly_false=good - np.searchsorted(sorted_good, distinct, side="right"),
        overlap=overlap,
        good=good,
    )
