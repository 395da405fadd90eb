"""Patch-similarity scoring: reduce an anomaly map to one image score.

Each cell of the map states how much its patch differs from what the student predicts or reconstructs there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from service.bundle.arrays import Float32Map
from service.bundle.manifest import ScoreRule
from service.inspection.area import BoolMask


def image_score(
    anomaly_map: Float32Map,
    rule: ScoreRule,
    judged: BoolMask | None = None,
    windows: Sequence[tuple[slice, slice]] = (),
) -> float:
    """Return the raw image score. It is unbounded, and never clamped or normalised.

    Where only some cells are judged, all others count as the lowest value of the map, and the fraction of the rule
    still refers to the whole map. So the number of averaged cells does not shrink with the judged area, and excluding
    cells can only lower the score, also in the last bit. A threshold that good parts exceed with probability alpha at
    most, when whole images are judged, therefore keeps this guarantee for every judged area. The mean of the highest
    1 % of the judged cells would not: in a smaller area it follows the noise of fewer cells.

    Args:
        anomaly_map: float32 [h, w], times the score gain.
        rule: "top_fraction": the mean of the highest `fraction` of the map's cells, at least one cell. A defect covers
            a small part of the image, so the mean of all cells would hide it; the maximum alone follows noise.
        judged: bool [h, w], the cells that are judged, at least one; None means all.
        windows: Rows and columns to which the rule is applied one by one; the highest score counts. In an image of many
            tiles, a defect is a much smaller share of all cells. Empty means the whole map.

    Returns:
        The score; NaN if the map contains NaN or infinity. It never exceeds the highest judged cell: if the score is
        above a threshold, so is a judged cell, and a rejected part always has a region to show.
    """
    lowest = float(anomaly_map.min())
    if not math.isfinite(lowest):
        return math.nan
    scores = []
    for window in windows or (...,):
        values = anomaly_map[window]
        count = max(1, math.ceil(rule.fraction * values.size))
        scores.append(_top_mean(values.ravel() if judged is None else values[judged[window]], count, lowest))
    return math.nan if any(math.isnan(score) for score in scores) else max(scores)


def _top_mean(values: Float32Map, count: int, lowest: float) -> float:
    """Return the mean of the `count` highest values, NaN if one of them is not finite.

    Args:
        values: float32, any number of values.
        count: Number of values to average; missing values are replaced by `lowest`.
        lowest: Not greater than any value.
    """
    if values.size <= count:
        top = np.full(count, lowest)
        top[: values.size] = values
    else:
        top = np.partition(values, values.size - count)[-count:].astype(np.float64)
    if not np.isfinite(top).all():
        return math.nan
    # fsum rounds exactly: its result increases with each term, whatever their order. Other sums do not guarantee that.
    return min(math.fsum(top) / count, float(top.max()))
