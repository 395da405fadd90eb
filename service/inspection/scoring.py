"""Patch-similarity scoring: an anomaly map becomes one image score.

Each cell of the map says how unlike its patch is to what the student predicts or reconstructs there.
"""

from __future__ import annotations

import math

import numpy as np

from service.bundle import Float32Map, ScoreRule


def image_score(anomaly_map: Float32Map, gain: float | None, rule: ScoreRule) -> float:
    """The raw image score: unbounded, never clamped or normalised.

    Args:
        anomaly_map: float32 [h, w].
        gain: The method's factor on the score, None for 1.
        rule: "top_fraction": the mean of the highest `fraction` of the cells, at least one cell. A defect covers a
            small part of the picture, so the mean of all cells would drown it; the maximum alone follows noise.

    Returns:
        The score. It never exceeds the map's maximum times the gain, so a score above a level proves that a cell
        lies above it too: a rejected part always has a region to show.
    """
    cells = anomaly_map.astype(np.float64).ravel()
    count = max(1, math.ceil(rule.fraction * cells.size))
    top = np.partition(cells, cells.size - count)[-count:]
    return float(min(top.mean(), top.max())) * (1.0 if gain is None else gain)
