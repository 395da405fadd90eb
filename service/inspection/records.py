"""Records of the decision core: a prepared image, its measurement, and the inspection that follows from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from service.bundle.arrays import Float32Map, UInt8Image
from service.inspection.area import BoolMask
from service.inspection.decision import Decision, Thresholds
from service.inspection.decoding.pixel_formats import PixelRules
from service.inspection.quality import Quality
from service.inspection.regions import Region


@dataclass(frozen=True)
class PreparedImage:
    """A decoded image, ready for the graph.

    Attributes:
        pixels: uint8 [H, W, 3], RGB: of the graph's input size, or the scaled and padded image from which tiles are
            cut.
        image_wh: Width and height of the image as it was sent, in pixels.
        media_type: Detected from the data.
        sha256: SHA-256 of the bytes that were sent, hex.
        rules: How the bytes were decoded; needed to decode them again.
        quality: Values measured for the quality check.
        timings: Seconds per stage.
    """

    pixels: UInt8Image
    image_wh: tuple[int, int]
    media_type: str
    sha256: str
    rules: PixelRules
    quality: Quality
    timings: Mapping[str, float]


@dataclass(frozen=True)
class Measurement:
    """Score and anomaly map of an image, before any threshold.

    Attributes:
        score: Raw image score.
        anomaly_map: float32 [h, w], times the score gain. Scores and thresholds refer to these values.
        judged: bool [h, w], the cells that contribute to the score; None means all.
    """

    score: float
    anomaly_map: Float32Map
    judged: BoolMask | None = None


@dataclass(frozen=True)
class Inspection:
    """A verdict and the data that it is based on.

    Attributes:
        decision: pass, review or fail.
        by_score: The decision by the score alone. `decision` is milder only where region filters made it so.
        score: Raw image score.
        p_value: P-value of the score among good parts.
        thresholds: The thresholds in force.
        regions: Regions above the threshold of the decision; empty exactly when the part passes.
        dropped: Number of regions above the threshold of `by_score` that were filtered out, by filter.
        anomaly_map: float32 [h, w], times the score gain.
        judged: bool [h, w], the cells that were judged; None means all.
        image: The prepared image.
        timings: Seconds in the stages decode, preprocess, queue, infer and postprocess.
        batch_size: Number of images in the inference batch.
    """

    decision: Decision
    by_score: Decision
    score: float
    p_value: float
    thresholds: Thresholds
    regions: tuple[Region, ...]
    dropped: Mapping[str, int]
    anomaly_map: Float32Map
    judged: BoolMask | None
    image: PreparedImage
    timings: Mapping[str, float]
    batch_size: int

    @property
    def judged_share(self) -> float:
        """Return the share of the image that was judged, in (0, 1]."""
        return 1.0 if self.judged is None else float(self.judged.mean())
