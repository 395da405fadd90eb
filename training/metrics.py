"""Figures of merit for detection and localisation, exact and without thresholds chosen by hand.

Pixel figures are taken over the whole data set at once: good images count as false positives, and one
threshold holds for all images. (Per-image PRO averaged over defective images, as several published scripts
compute it, is another and kinder number.) Scores are never normalised before they are compared.

The trick that keeps a few hundred images at camera size in memory: the curves only bend where a *defective*
pixel's score lies, and these are few. Good pixels are kept as one sorted float32 array and looked up.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
AUPRO_FPR_LIMIT = 0.3  # MVTec AD's integration limit


def auroc(scores: Floats, defective: NDArray[np.bool_]) -> float:
    """Area under the ROC curve; ties count half.

    Args:
        scores: `[N]`, higher means more anomalous.
        defective: `[N]`, true for defective.

    Raises:
        ValueError: one of the two kinds is absent.
    """
    good, bad = _split(scores, defective)
    good.sort()
    return _auroc(good, bad)


def average_precision(scores: Floats, defective: NDArray[np.bool_]) -> float:
    """Area under the precision-recall curve as a step function (scikit-learn's `average_precision_score`)."""
    good, bad = _split(scores, defective)
    good.sort()
    return _counts(good, bad).average_precision()


def f1_max(scores: Floats, defective: NDArray[np.bool_]) -> float:
    """The best F1 that any threshold gives."""
    good, bad = _split(scores, defective)
    good.sort()
    return _counts(good, bad).f1_max()


def roc_curve(scores: Floats, defective: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """False-positive and true-positive rates, each `[K]` from 0 to 1, one point for every distinct score."""
    good, bad = _split(scores, defective)
    good.sort()
    bad.sort()
    thresholds = np.unique(np.concatenate([good, bad]))[::-1]
    fpr = 1.0 - np.searchsorted(good, thresholds, side="left") / len(good)
    tpr = 1.0 - np.searchsorted(bad, thresholds, side="left") / len(bad)
    return np.concatenate([[0.0], fpr]), np.concatenate([[0.0], tpr])


class PixelScores:
    """Collects maps and masks image by image, then answers the pixel figures."""

    def __init__(self) -> None:
        self._good: list[NDArray[np.float32]] = []
        self._bad: list[NDArray[np.float32]] = []
        self._weights: list[NDArray[np.float64]] = []
        self.regions = 0

    def add(self, anomaly_map: NDArray[np.float32], mask: NDArray[np.bool_]) -> None:
        """Add one image.

        Args:
            anomaly_map: float32 `[h, w]`; stretched bilinearly to the mask's size when it differs.
            mask: `[H, W]`, true where defective; all false for a good image.
        """
        height, width = mask.shape
        if anomaly_map.shape != mask.shape:
            stretched = cv2.resize(anomaly_map, (width, height), interpolation=cv2.INTER_LINEAR)
            anomaly_map = np.asarray(stretched, np.float32)
        self._good.append(anomaly_map[~mask])
        if not mask.any():
            return
        # 8-connected, as MVTec's own evaluation labels regions.
        count, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
        inside = labels[mask]
        areas = np.bincount(inside, minlength=count)
        self._bad.append(anomaly_map[mask])
        self._weights.append(1.0 / areas[inside])
        self.regions += count - 1

    def figures(self, fpr_limit: float = AUPRO_FPR_LIMIT) -> "PixelFigures":
        """All pixel figures of what was added.

        Raises:
            ValueError: no defective or no good pixel was added.
        """
        if not self._bad or not any(len(part) for part in self._good):
            raise ValueError("pixel figures need defective and good pixels")
        good = np.concatenate(self._good)
        self._good = [good]  # let the parts go before sorting
        good.sort()
        bad, weights = np.concatenate(self._bad), np.concatenate(self._weights)
        counts = _counts(good, bad, weights / self.regions)
        return PixelFigures(
            auroc=_auroc(good, bad),
            average_precision=counts.average_precision(),
            f1_max=counts.f1_max(),
            aupro=counts.aupro(fpr_limit),
            regions=self.regions,
        )


@dataclass(frozen=True)
class PixelFigures:
    """Data-set-level pixel figures, each in 0..1, and the number of defective regions they rest on."""

    auroc: float
    average_precision: float
    f1_max: float
    aupro: float
    regions: int


@dataclass(frozen=True)
class _Counts:
    """What lies at and above every distinct score of a defective item, highest score first; all `[K]`."""

    true_positives: NDArray[np.int64]  # defective >= score
    false_positives: NDArray[np.int64]  # good >= score
    strictly_false: NDArray[np.int64]  # good > score
    overlap: NDArray[np.float64]  # mean share of a region that lies at or above the score
    good: int

    def average_precision(self) -> float:
        recall_steps = np.diff(self.true_positives, prepend=0) / self.true_positives[-1]
        precision = self.true_positives / (self.true_positives + self.false_positives)
        return float(np.sum(recall_steps * precision))

    def f1_max(self) -> float:
        found = self.true_positives
        return float(np.max(2 * found / (found + self.false_positives + found[-1])))

    def aupro(self, fpr_limit: float) -> float:
        # Two corners a score: just above it (overlap still the old one) and at it. Between the two lie the
        # good pixels tied with it, hence the slope; between scores the curve is flat.
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
        return float(np.trapezoid(overlap, fpr) / fpr_limit)


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
