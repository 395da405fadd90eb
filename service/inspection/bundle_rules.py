"""What a bundle determines about a verdict beside its graph."""

from __future__ import annotations

from service.bundle.arrays import Float32Map
from service.bundle.bundle import Bundle
from service.bundle.card import CalibrationCard
from service.inspection import tiling
from service.inspection.area import BoolMask, judged_cells
from service.inspection.decision import Criteria, Thresholds, Verdict, judge
from service.inspection.heatmap import HeatmapScale
from service.inspection.quality import QualityLimits, derive_limits
from service.inspection.scoring import image_score


class BundleRules:
    """Judges stored maps, checks quality and scales heatmaps as a bundle states. The graph is not needed for it.

    Args:
        bundle: The bundle.

    Attributes:
        bundle: The bundle.
    """

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle

    @property
    def card(self) -> CalibrationCard:
        """Return the calibration card."""
        return self.bundle.card

    @property
    def quality_limits(self) -> QualityLimits:
        """Return the limits of the quality check that follow from the calibration images."""
        return derive_limits(self.card.quality, self.card.image_size)

    def judge_map(self, anomaly_map: Float32Map, image_wh: tuple[int, int], criteria: Criteria) -> Verdict:
        """Return the verdict on an image from its stored map.

        Args:
            anomaly_map: float32 [h, w], times the score gain, as in `Measurement`.
            image_wh: Width and height of the image as it was sent.
            criteria: The criteria to apply.

        Raises:
            AreaMismatch: The area of the criteria does not fit an image of this size.
        """
        height, width = anomaly_map.shape
        judged = judged_cells(criteria.area, (height, width), image_wh)
        return judge(self.score_map(anomaly_map, image_wh, judged), anomaly_map, criteria, image_wh, judged)

    def score_map(self, anomaly_map: Float32Map, image_wh: tuple[int, int], judged: BoolMask | None = None) -> float:
        """Return the score of an image from its stored map.

        Args:
            anomaly_map: float32 [h, w], times the score gain.
            image_wh: Width and height of the image as it was sent.
            judged: bool [h, w], the cells to score; None means all.
        """
        manifest = self.bundle.manifest
        if manifest.input.tiling is None:
            return image_score(anomaly_map, manifest.score_rule, judged)
        grid = tiling.plan_tiles(image_wh[::-1], manifest.input)
        windows = tiling.tile_windows(grid, (manifest.map_height, manifest.map_width))
        return image_score(anomaly_map, manifest.score_rule, judged, windows)

    def heatmap_scale(
        self, thresholds: Thresholds, low: float | None = None, high: float | None = None
    ) -> HeatmapScale:
        """Return the product's fixed heatmap scale.

        Args:
            thresholds: Thresholds in force; 1 on the scale is the fail threshold.
            low: Map value for 0 on the scale, instead of the median of good maps.
            high: Map value for 1 on the scale, instead of the fail threshold.
        """
        return HeatmapScale(
            low=self.card.map_median if low is None else low,
            high=thresholds.fail if high is None else high,
        )
