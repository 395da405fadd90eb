"""The metrics against scikit-learn and against a brute-force implementation of the definitions."""

from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from training import metrics

Map = NDArray[np.float32]
Mask = NDArray[np.bool_]


def regions_of(mask: Mask) -> list[Mask]:
    """Flood fill over all eight neighbours, pixel by pixel."""
    left, regions = set(zip(*map(np.ndarray.tolist, np.nonzero(mask)), strict=True)), []
    while left:
        region, todo = np.zeros_like(mask), [left.pop()]
        while todo:
            y, x = todo.pop()
            region[y, x] = True
            near = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            left -= near
            todo += near
        regions.append(region)
    return regions


def brute_force_aupro(maps: list[Map], masks: list[Mask], fpr_limit: float) -> float:
    """Integrate over every threshold, region and pixel with trapezoids up to the limit."""
    regions = [(number, region) for number, mask in enumerate(masks) for region in regions_of(mask)]
    good = np.concatenate([m[~k] for m, k in zip(maps, masks, strict=True)])
    points = [(0.0, 0.0)]
    for threshold in sorted(set(np.concatenate([m.ravel() for m in maps]).tolist()), reverse=True):
        fpr = float(np.mean(good >= threshold))
        pro = float(np.mean([np.mean(maps[n][region] >= threshold) for n, region in regions]))
        points.append((fpr, pro))
    area = 0.0
    for (x0, y0), (x1, y1) in pairwise(points):
        if x0 >= fpr_limit or x1 == x0:
            continue
        right = min(x1, fpr_limit)
        y_right = y0 + (y1 - y0) * (right - x0) / (x1 - x0)
        area += (right - x0) * (y0 + y_right) / 2
    return area / fpr_limit


def pixel_figures(maps: list[Map], masks: list[Mask], fpr_limit: float = 0.3) -> metrics.PixelFigures:
    collected = metrics.PixelScores()
    for anomaly_map, mask in zip(maps, masks, strict=True):
        collected.add(anomaly_map, mask)
    return collected.figures(fpr_limit)


def random_scene(seed: int, levels: int | None) -> tuple[list[Map], list[Mask]]:
    """A few small images with blobs and one-pixel regions, the last one without a defect."""
    rng = np.random.default_rng(seed)
    maps, masks = [], []
    for number in range(5):
        mask = np.zeros((19, 23), dtype=bool)
        if number < 4:
            y, x = rng.integers(0, 12, size=2)
            mask[y : y + 6, x : x + 3] = True
            mask[18, 22] = mask[18, 20] = True  # two regions of one pixel each
        anomaly_map = rng.random(mask.shape) + 0.6 * mask * rng.random()
        if levels:
            anomaly_map = np.round(anomaly_map * levels) / levels
        maps.append(anomaly_map.astype(np.float32))
        masks.append(mask)
    return maps, masks


@pytest.mark.parametrize("levels", [None, 7, 1], ids=["continuous", "ties", "nearly-all-tied"])
@pytest.mark.parametrize("seed", range(5))
def test_image_metrics_agree_with_scikit_learn(seed: int, levels: int | None) -> None:
    rng = np.random.default_rng(seed)
    defective = rng.random(200) < 0.3
    scores = rng.normal(size=200) + defective
    if levels:
        scores = np.round(scores * levels) / levels

    assert metrics.auroc(scores, defective) == pytest.approx(roc_auc_score(defective, scores), abs=1e-12)
    assert metrics.average_precision(scores, defective) == pytest.approx(
        average_precision_score(defective, scores), abs=1e-12
    )
    precision, recall, _ = precision_recall_curve(defective, scores)
    best = np.max(2 * precision * recall / np.maximum(precision + recall, 1e-12))
    assert metrics.f1_max(scores, defective) == pytest.approx(best, abs=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("levels", [None, 5], ids=["continuous", "ties"])
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("fpr_limit", [0.05, 0.3, 1.0])
def test_aupro_agrees_with_brute_force(seed: int, levels: int | None, fpr_limit: float) -> None:
    maps, masks = random_scene(seed, levels)

    assert pixel_figures(maps, masks, fpr_limit).aupro == pytest.approx(
        brute_force_aupro(maps, masks, fpr_limit), abs=1e-9
    )


def test_pixel_metrics_agree_with_scikit_learn() -> None:
    maps, masks = random_scene(0, 20)
    scores = np.concatenate([m.ravel() for m in maps])
    defective = np.concatenate([m.ravel() for m in masks])

    figures = pixel_figures(maps, masks)

    assert figures.auroc == pytest.approx(roc_auc_score(defective, scores), abs=1e-12)
    assert figures.average_precision == pytest.approx(average_precision_score(defective, scores), abs=1e-12)
    assert figures.regions == 4 * 3


def test_false_positives_on_a_good_image_lower_aupro() -> None:
    """PRO averaged over defective images would ignore good images."""
    defect = np.zeros((20, 20), dtype=bool)
    defect[5:9, 5:9] = True
    clear = np.where(defect, 1.0, 0.0).astype(np.float32)
    noisy, none = np.full((20, 20), 2.0, dtype=np.float32), np.zeros((20, 20), dtype=bool)

    assert pixel_figures([clear], [defect]).aupro == pytest.approx(1.0)
    # All of the noisy image lies above the defect: 400 of 784 good pixels, beyond the limit.
    assert pixel_figures([clear, noisy], [defect, none]).aupro == pytest.approx(0.0)


def test_small_regions_weigh_as_much_as_large_ones() -> None:
    mask = np.zeros((30, 30), dtype=bool)
    mask[0:20, 0:20] = True
    mask[29, 29] = True
    only_the_dot = np.zeros((30, 30), dtype=np.float32)
    only_the_dot[29, 29] = 1.0

    # Half of the overlap at the first threshold; all other pixels are tied: a line from (0, 0.5) to (1, 1).
    assert pixel_figures([only_the_dot], [mask], 1.0).aupro == pytest.approx(0.75)


def test_regions_that_touch_at_a_corner_are_one() -> None:
    mask = np.eye(4, dtype=bool)

    assert pixel_figures([np.zeros((4, 4), dtype=np.float32)], [mask]).regions == 1


def test_a_smaller_map_is_resized_to_its_mask() -> None:
    mask = np.zeros((64, 64), dtype=bool)
    mask[:, 32:] = True
    small = np.tile(np.linspace(0, 1, 8, dtype=np.float32), (8, 1))

    assert pixel_figures([small], [mask]).auroc == pytest.approx(1.0)


def test_roc_curve_starts_and_ends_in_the_corners() -> None:
    fpr, tpr = metrics.roc_curve(np.array([0.1, 0.4, 0.4, 0.9]), np.array([False, False, True, True]))

    assert fpr.tolist() == [0.0, 0.0, 0.5, 1.0]
    assert tpr.tolist() == [0.0, 0.5, 1.0, 1.0]


@pytest.mark.parametrize("defective", [[False, False], [True, True]])
def test_metrics_need_both_classes(defective: list[bool]) -> None:
    with pytest.raises(ValueError, match="both good and defective"):
        metrics.auroc(np.array([0.0, 1.0]), np.array(defective))


def test_pixel_metrics_need_a_mask() -> None:
    collected = metrics.PixelScores()
    collected.add(np.zeros((4, 4), dtype=np.float32), np.zeros((4, 4), dtype=bool))

    with pytest.raises(ValueError, match="defective and good pixels"):
        collected.figures()


def test_hundreds_of_camera_size_maps_are_fast() -> None:
    """60 maps of 448x448 are 12 million pixels; a per-threshold loop would take minutes."""
    rng = np.random.default_rng(0)
    collected = metrics.PixelScores()
    for _ in range(60):
        mask = np.zeros((448, 448), dtype=bool)
        mask[100:140, 100:140] = True
        collected.add(rng.random((64, 64), dtype=np.float32), mask)

    assert 0.4 < collected.figures().auroc < 0.6
