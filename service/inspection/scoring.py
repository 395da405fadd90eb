"""Patch-similarity scoring: an anomaly map becomes one image score.

Each cell of the map says how unlike its patch is to what the student predicts or reconstructs there.
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
    """The raw image score: unbounded, never clamped or normalised.

    Where only a part of the cells is judged, all others count as the lowest value of the map, and the rule stays that
    of the whole map. So the number of cells in the mean does not shrink with the judged part, and leaving cells out can
    only lower the score, never raise it by a rounding error: a threshold that good parts exceed with probability alpha
    at most when whole images are judged keeps that promise under every choice of judged cells. The mean of the
    highest 1 % of the judged cells would not: on a smaller part it follows the noise of fewer cells.

    Args:
        anomaly_map: float32 [h, w], already times the score gain.
        rule: "top_fraction": the mean of the highest `fraction` of the map's cells, at least one cell. A defect covers
            a small part of the image, so the mean of all cells would drown it; the maximum alone follows noise.
        judged: bool [h, w], the cells that are judged, at least one; None means all.
        windows: Rows and columns that the rule is applied to one by one, and the highest score counts: in an image of
            many tiles, a defect is a share of all cells that is as many times smaller. Empty: the whole map.

    Returns:
        The score, NaN where the map holds what is no number. It never exceeds the highest judged cell, so a score above
        a level proves that a judged cell lies above it too: a rejected part always has a region to show.
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
    """The mean of the so many highest values, NaN where one of them is no number.

    Args:
        values: float32, any number of them.
        count: So many; what is missing is filled up.
        lowest: With this, not greater than any value.
    """
    if values.size <= count:
        top = np.full(count, lowest)
        top[: values.size] = values
    else:
        top = np.partition(values, values.size - count)[-count:].astype(np.float64)
    if not np.isfinite(top).all():
        return math.nan
    # The exactly rounded sum: it grows with each of its terms, whatever their order, which no other sum promises.
    return min(math.fsum(top) / count, float(top.max()))
