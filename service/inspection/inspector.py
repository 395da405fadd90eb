"""One product's whole way: bytes in, Inspection out.

The three steps are separate because they belong to different threads of a server: `read` and `finish` to a small pool,
the graph to its batcher. `measure` and `inspect` run them in a row, for calibration, evaluation and the command line.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from service.bundle.arrays import Float32Map, UInt8Image
from service.bundle.bundle import Bundle
from service.bundle.card import CalibrationCard
from service.bundle.errors import ParityFailure
from service.bundle.manifest import InputGeometry, ScoreRule
from service.inspection import tiling
from service.inspection.area import EVERYTHING, Area, BoolMask, judged_cells
from service.inspection.calibration import p_value
from service.inspection.decision import Criteria, Decision, Thresholds, Verdict, judge
from service.inspection.decoding import decoder
from service.inspection.decoding.decoder import ImageLimits
from service.inspection.decoding.pixel_formats import DEFAULT_RULES, PixelRules
from service.inspection.errors import ScoreNotFinite
from service.inspection.heatmap import HeatmapScale
from service.inspection.measures import measure_quality
from service.inspection.quality import Quality, QualityLimits, derive_limits
from service.inspection.regions import Region
from service.inspection.runtime.batching import BatchingOptions, MicroBatcher, PatchResult
from service.inspection.runtime.session import GraphSession, Provider, SessionOptions
from service.inspection.scoring import image_score


@dataclass(frozen=True)
class InspectorOptions:
    """How a product is run: see the parts."""

    session: SessionOptions = field(default_factory=SessionOptions)
    batching: BatchingOptions = field(default_factory=BatchingOptions)
    limits: ImageLimits = field(default_factory=ImageLimits)


@dataclass(frozen=True)
class PreparedImage:
    """An image that was read and is ready for the graph.

    Attributes:
        prepared: uint8 [H, W, 3], RGB: of the graph's input size, or what its tiles are cut from.
        image_wh: Width and height of the image as it was sent, in pixels.
        media_type: Sniffed from the data.
        sha256: Of the bytes that were sent, hex.
        rules: How these bytes were read; reading them again needs it.
        quality: What was measured of the image, before anybody judges it.
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
    """What the graph and the score rule say, before any threshold.

    Attributes:
        score: Raw image score.
        anomaly_map: float32 [h, w], times the score gain: the values that scores and thresholds are made of.
        judged: bool [h, w], the cells that the score was taken over; None means all.
    """

    score: float
    anomaly_map: Float32Map
    judged: BoolMask | None = None


@dataclass(frozen=True)
class Inspection:
    """A verdict and what it rests on.

    Attributes:
        decision: pass, review or fail.
        by_score: What the score alone says; milder than that is `decision` only where region filters made it so.
        score: Raw image score; `p_value` says how usual it is among good parts.
        thresholds: The levels it was judged by.
        regions: What lies above the level of the verdict; empty exactly when the part passes.
        dropped: How many regions above the level of `by_score` were filtered out, by the filter.
        anomaly_map: float32 [h, w], times the score gain.
        judged: bool [h, w], the cells that were judged; None means all.
        image: Size, type and hash of the image.
        timings: Seconds in the stages decode, preprocess, queue, infer and postprocess.
        batch_size: Images in the batch it was inferred with.
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
        """Share of the image that was judged, in (0, 1]."""
        return 1.0 if self.judged is None else float(self.judged.mean())


class Measurer:
    """Reads images, runs a graph and scores the maps. All that needs no calibration card, so that a graph which
    is not a bundle yet is calibrated by the code that will serve it."""

    def __init__(
        self, session: GraphSession, geometry: InputGeometry, rule: ScoreRule, options: InspectorOptions
    ) -> None:
        self.options = options
        self.geometry = geometry
        self.rule = rule
        self.session = session
        self.batcher = MicroBatcher(session, _batching(geometry, options.batching))

    @property
    def provider(self) -> Provider:
        """The execution provider that really serves."""
        return self.session.provider

    def read(self, data: bytes, rules: PixelRules = DEFAULT_RULES) -> PreparedImage:
        """Decode and prepare one image.

        Args:
            data: The encoded image or the camera buffer.
            rules: What recipe and sender declare about its pixels.

        Raises:
            BodyTooLarge, TooManyPixels, NotAnImage, CorruptImage, BufferSizeMismatch, PixelMismatch: See
                `decoder.decode`.
        """
        started = time.perf_counter()
        media_type = decoder.read_header(data, rules).media_type
        rgb = decoder.decode(data, self.options.limits, rules)
        decoded = time.perf_counter()
        pixels = tiling.prepare_input(rgb, self.geometry)
        quality = measure_quality(pixels)
        sha256 = hashlib.sha256(data).hexdigest()
        timings = {"decode": decoded - started, "preprocess": time.perf_counter() - decoded}
        return PreparedImage(pixels, (rgb.shape[1], rgb.shape[0]), media_type, sha256, rules, quality, timings)

    def infer(self, image: PreparedImage) -> PatchResult:
        """Have the graph look at an image, in one piece or tile by tile, and wait for the map.

        Raises:
            QueueFull, DeadlineExceeded, ShuttingDown: It cannot be looked at now; see `MicroBatcher.submit`.
        """
        if self.geometry.tiling is None:
            return self.batcher.submit(image.pixels).result()
        width, height = image.image_wh
        grid = tiling.plan_tiles((height, width), self.geometry)
        return tiling.infer_tiles(image.pixels, grid, self.batcher.submit, _tiles_at_once(self.options.batching))

    def run_copies(self, image: PreparedImage, copies: int) -> PatchResult:
        """Run the graph at once on a batch of so many copies of an image, to get the numbers of a batch of that size.

        The last bits of what a graph computes depend on the size of the batch, but not on the neighbours in it. Only
        for a measurer that nobody else uses, because it does not wait for a turn, and for images in one piece.
        """
        started = time.perf_counter()
        output = self.session.run(np.repeat(image.pixels[None], copies, axis=0))
        infer_s = time.perf_counter() - started
        gain = None if output.gains is None else float(output.gains[0])
        return PatchResult(output.maps[0].copy(), gain, 0.0, infer_s, copies)

    def score(self, image: PreparedImage, result: PatchResult, area: Area = EVERYTHING) -> Measurement:
        """Apply the score rule to what the graph said about an image.

        Args:
            image: What was read.
            result: What the graph said about it.
            area: What of the image is judged.

        Raises:
            ScoreNotFinite: The graph computed something that is no number, which is no basis for a verdict.
            AreaMismatch: The area is not one of an image of this size.
        """
        # Score and regions are made of the very same numbers, so that they agree to the last bit at a threshold.
        anomaly_map = result.anomaly_map if result.gain is None else result.anomaly_map * result.gain
        height, width = anomaly_map.shape
        judged = judged_cells(area, (height, width), image.image_wh)
        score = image_score(anomaly_map, self.rule, judged, result.windows)
        if not math.isfinite(score):
            raise ScoreNotFinite(score)
        return Measurement(score, anomaly_map, judged)

    def measure(self, data: bytes, rules: PixelRules = DEFAULT_RULES, area: Area = EVERYTHING) -> Measurement:
        """Read, infer and score one image."""
        image = self.read(data, rules)
        return self.score(image, self.infer(image), area)

    def close(self, *, drain: bool = True) -> None:
        """Answer what waits, end the inference thread, and give the graph's memory back."""
        self.batcher.close(drain=drain)
        self.session.close()


class Inspector(Measurer):
    """A measurer with a verified bundle: it judges."""

    def __init__(self, bundle: Bundle, session: GraphSession, options: InspectorOptions) -> None:
        super().__init__(session, bundle.manifest.input, bundle.manifest.score_rule, options)
        self.bundle = bundle

    @classmethod
    def load(cls, path: Path, options: InspectorOptions | None = None) -> Inspector:
        """Verify a bundle, open its graph, run the golden samples on the provider that will serve, and warm up.

        Args:
            path: The bundle's folder.
            options: How to run it.

        Raises:
            BundleInvalid: Any reason not to serve the bundle, `ParityFailure` among them.
            ProviderUnavailable: The provider that was asked for cannot be used.
        """
        options = options or InspectorOptions()
        bundle = Bundle.load(path)
        session = GraphSession(bundle.read_model(), options.session)
        tolerance = bundle.manifest.parity.tolerance
        difference = session.self_test(bundle.golden)
        if not difference <= tolerance:
            raise ParityFailure(path, session.provider, difference, tolerance)
        session.warm_up(range(1, options.batching.max_batch + 1))
        return cls(bundle, session, options)

    @property
    def card(self) -> CalibrationCard:
        return self.bundle.card

    @property
    def quality_limits(self) -> QualityLimits:
        """Beyond which an image is none like those that the bundle was calibrated with."""
        return derive_limits(self.card.quality)

    def judge_map(self, anomaly_map: Float32Map, image_wh: tuple[int, int], criteria: Criteria) -> Verdict:
        """What would have been decided about an image, from its stored map.

        Args:
            anomaly_map: float32 [h, w], times the score gain, as `Measurement` has it.
            image_wh: Width and height of the image as it was sent.
            criteria: What to judge by.

        Raises:
            AreaMismatch: The criteria's area is not one of an image of this size.
        """
        height, width = anomaly_map.shape
        judged = judged_cells(criteria.area, (height, width), image_wh)
        return judge(self.score_map(anomaly_map, image_wh, judged), anomaly_map, criteria, image_wh, judged)

    def score_map(self, anomaly_map: Float32Map, image_wh: tuple[int, int], judged: BoolMask | None = None) -> float:
        """The score of an image, from its stored map.

        Args:
            anomaly_map: As `judge_map`.
            image_wh: As `judge_map`.
            judged: bool [h, w], the cells to score; None: all.
        """
        if self.geometry.tiling is None:
            return image_score(anomaly_map, self.rule, judged)
        manifest = self.bundle.manifest
        grid = tiling.plan_tiles(image_wh[::-1], self.geometry)
        windows = tiling.tile_windows(grid, (manifest.map_height, manifest.map_width))
        return image_score(anomaly_map, self.rule, judged, windows)

    def heatmap_scale(
        self, thresholds: Thresholds, low: float | None = None, high: float | None = None
    ) -> HeatmapScale:
        """The product's fixed scale: 0 is the median of good maps, 1 the fail threshold, unless `low` or `high` say
        otherwise."""
        return HeatmapScale(
            low=self.card.map_median if low is None else low,
            high=thresholds.fail if high is None else high,
        )

    def finish(
        self, image: PreparedImage, result: PatchResult, criteria: Criteria, reference: Sequence[float] | None = None
    ) -> Inspection:
        """Score and judge what the graph said about an image.

        Args:
            image: What was read.
            result: What the graph said.
            criteria: What to judge by.
            reference: Scores of good images, ascending, that the p-value is taken against: those that the thresholds
                were derived from. None: the calibration card's.

        Raises:
            ScoreNotFinite, AreaMismatch: As `score`.
        """
        started = time.perf_counter()
        measured = self.score(image, result, criteria.area)
        verdict = judge(measured.score, measured.anomaly_map, criteria, image.image_wh, measured.judged)
        return Inspection(
            decision=verdict.decision,
            by_score=verdict.by_score,
            score=measured.score,
            p_value=p_value(self.card.scores if reference is None else reference, measured.score),
            thresholds=criteria.thresholds,
            regions=verdict.regions,
            dropped=verdict.dropped,
            anomaly_map=measured.anomaly_map,
            judged=measured.judged,
            image=image,
            timings={
                **image.timings,
                "queue": result.queue_s,
                "infer": result.infer_s,
                "postprocess": time.perf_counter() - started,
            },
            batch_size=result.batch_size,
        )

    def inspect(
        self,
        data: bytes,
        criteria: Criteria,
        reference: Sequence[float] | None = None,
        rules: PixelRules = DEFAULT_RULES,
        copies: int | None = None,
    ) -> Inspection:
        """The whole way for one image.

        Args:
            data: The encoded image or the camera buffer.
            criteria: What to judge by.
            reference: As `finish`.
            rules: What recipe and sender declare about its pixels.
            copies: As `run_copies`; None: in its turn, with whatever other images wait.

        Raises:
            BodyTooLarge, TooManyPixels, NotAnImage, CorruptImage, BufferSizeMismatch, PixelMismatch: The image is
                not usable.
            AreaMismatch: It has not the size that the criteria's polygons were drawn for.
            QueueFull, DeadlineExceeded, ShuttingDown: It cannot be judged now.
        """
        image = self.read(data, rules)
        result = self.infer(image) if copies is None else self.run_copies(image, copies)
        return self.finish(image, result, criteria, reference)


def _tiles_at_once(options: BatchingOptions) -> int:
    """Tiles of one image that wait or run at a time: while one batch runs, the next one forms."""
    return 2 * options.max_batch


def _batching(geometry: InputGeometry, options: BatchingOptions) -> BatchingOptions:
    """The batcher's limits. Its queue counts tiles, the option images."""
    if geometry.tiling is None:
        return options
    return replace(options, queue_limit=options.queue_limit * _tiles_at_once(options))
