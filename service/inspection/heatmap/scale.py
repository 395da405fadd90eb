"""The scale of heatmaps, fixed per product, so that equal colours mean equal map values on every part."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from service.bundle.arrays import Float32Map

FULL_SCALE = 1.5
"""End of the scale, as a multiple of the range from `low` to `high`."""


@dataclass(frozen=True)
class HeatmapScale:
    """The scale of a heatmap: `low` is the median of good maps (no colour), `high` the fail threshold.

    The colour changes at `high`. A score is a mean of the highest cells, so single cells of a good part may be slightly
    above the threshold; the strongest colour therefore is reached at 1.5 times the range only.

    The scale never depends on the image that is shown: normalising each map by its own maximum would colour good parts
    like defective ones.
    """

    low: float
    high: float

    def normalise(self, anomaly_map: Float32Map) -> Float32Map:
        """Map values to [0, 1.5]: 0 at or below `low`, 1 at `high`, 1.5 at the end of the scale and beyond."""
        return np.asarray(np.clip((anomaly_map - self.low) / self._span, 0, FULL_SCALE), np.float32)

    def position(self, value: float) -> float:
        """Return the position of a map value on the scale, without limits."""
        return (value - self.low) / self._span

    @property
    def _span(self) -> float:
        return max(self.high - self.low, 1e-12)
