"""Inspect an image of one product: image bytes in, `Inspection` out.

The steps are separate methods because a server runs them on different threads: `read` and `finish` on a small pool, the
graph on the thread of its batcher. `measure` and `inspect` run all steps, for calibration, evaluation and the command
line.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Self

import numpy as np

from service.bundle.bundle import Bundle
from service.bundle.errors import ParityFailure
from service.bundle.manifest import InputGeometry, ScoreRule
from service.inspection import tiling
from service.inspection.area import EVERYTHING, Area, judged_cells
from service.inspection.bundle_rules import BundleRules
from service.inspection.calibration import p_value
from service.inspection.decision import Criteria, judge
from service.inspection.decoded_image import decode_for
from service.inspection.decoding import decoder
from service.inspection.decoding.decoder import ImageLimits
from service.inspection.decoding.pixel_formats import DEFAULT_RULES, PixelRules
from service.inspection.errors import ScoreNotFinite
from service.inspection.measures import measure_quality
from service.inspection.records import Inspection, Measurement, PreparedImage
from service.inspection.run_layout import choose_layout
from service.inspection.runtime.batching import BatchingOptions, MicroBatcher, PatchResult
from service.inspection.runtime.engine import IN_PROCESS, Engine
from service.inspection.runtime.session import GraphSession, Provider, Session, SessionOptions
from service.inspection.scoring import image_score


def hash_image(data: bytes) -> str:
    """Return the SHA-256 of an image as it was sent, hex."""
    return hashlib.sha256(data).hexdigest()


@dataclass(frozen=True)
class InspectorOptions:
    """Options of an inspector.

    Attributes:
        session: Options of the graph session.
        batching: Options of the micro-batcher.
        limits: Limits on encoded bytes and decoded pixels.
        engine: Opens the graph.
    """

    session: SessionOptions = field(default_factory=SessionOptions)
    batching: BatchingOptions = field(default_factory=BatchingOptions)
    limits: ImageLimits = field(default_factory=ImageLimits)
    engine: Engine = IN_PROCESS


class Measurer:
    """Decodes images, runs a graph and scores the maps.

    It contains everything that needs no calibration card, so a graph that is not a bundle yet is calibrated by the same
    code that serves it later.

    Args:
        session: The graph.
        geometry: Input geometry of the graph.
        rule: Score rule.
        options: Batching options and image limits.
        open_narrow: See `MicroBatcher`.
    """

    def __init__(
        self,
        session: Session,
        geometry: InputGeometry,
        rule: ScoreRule,
        options: InspectorOptions,
        open_narrow: Callable[[], GraphSession | None] | None = None,
    ) -> None:
        self.options = options
        self.geometry = geometry
        self.rule = rule
        self.session = session
        self.batcher = MicroBatcher(session, _batching(geometry, options.batching), open_narrow=open_narrow)

    @property
    def provider(self) -> Provider:
        """Return the execution provider that runs the graph."""
        return self.session.provider

    def read(
        self, data: bytes, rules: PixelRules = DEFAULT_RULES, sha256: Callable[[bytes], str] = hash_image
    ) -> PreparedImage:
        """Decode and prepare one image.

        Args:
            data: The encoded image or the camera buffer.
            rules: What the recipe and the sender declare about its pixels.
            sha256: Returns the SHA-256 of the data. It is called last, so another thread may compute it meanwhile.

        Raises:
            BodyTooLarge, TooManyPixels, ImageTooComplex, NotAnImage, UnsupportedImage, CorruptImage,
                BufferSizeMismatch, PixelMismatch: See `decoder.decode`.
        """
        started = time.perf_counter()
        media_type = decoder.read_media_type(data, rules)
        image = decode_for(data, self.options.limits, self.geometry, rules)
        decoded = time.perf_counter()
        pixels = tiling.prepare_input(image.rgb, self.geometry)
        quality = measure_quality(pixels)
        digest = sha256(data)
        timings = {"decode": decoded - started, "preprocess": time.perf_counter() - decoded}
        return PreparedImage(pixels, image.image_wh, media_type, digest, rules, quality, timings)

    def infer(self, image: PreparedImage, rank: int = 0, *, on_this_thread: bool = False) -> PatchResult:
        """Run the graph on an image, in one piece or tile by tile, and wait for the map.

        Args:
            image: The prepared image.
            rank: Images of a lower rank run first.
            on_this_thread: Whether the graph may run on the calling thread, at its priority; see `MicroBatcher.run`.

        Raises:
            QueueFull, DeadlineExceeded, ShuttingDown: The image cannot be processed now; see `MicroBatcher.submit`.
        """
        if self.geometry.tiling is None:
            if on_this_thread:
                return self.batcher.run(image.pixels, rank)
            return self.batcher.submit(image.pixels, rank).result()
        width, height = image.image_wh
        grid = tiling.plan_tiles((height, width), self.geometry)
        submit = partial(self.batcher.submit, rank=rank)
        return tiling.infer_tiles(image.pixels, grid, submit, _tiles_at_once(self.options.batching))

    def run_copies(self, image: PreparedImage, copies: int) -> PatchResult:
        """Run the graph immediately on a batch of copies of an image, to reproduce the results of that batch size.

        The last bits of a graph's results depend on the batch size, but not on the other images in the batch. The call
        bypasses the batcher, so use it only on a measurer that no other thread uses, and only for images without a
        tiling.

        Args:
            image: The prepared image.
            copies: Batch size.
        """
        started = time.perf_counter()
        output = self.session.run(np.repeat(image.pixels[None], copies, axis=0))
        infer_s = time.perf_counter() - started
        gain = None if output.gains is None else float(output.gains[0])
        return PatchResult(output.maps[0].copy(), gain, 0.0, infer_s, copies)

    def score(self, image: PreparedImage, result: PatchResult, area: Area = EVERYTHING) -> Measurement:
        """Apply the score rule to the result of the graph.

        Args:
            image: The prepared image.
            result: The result of the graph for it.
            area: The part of the image that is judged.

        Raises:
            ScoreNotFinite: The score is NaN or infinite, so no verdict is possible.
            AreaMismatch: The area does not fit an image of this size.
        """
        # Score and regions use the same numbers, so that they agree to the last bit at a threshold.
        anomaly_map = result.anomaly_map if result.gain is None else result.anomaly_map * result.gain
        height, width = anomaly_map.shape
        judged = judged_cells(area, (height, width), image.image_wh)
        score = image_score(anomaly_map, self.rule, judged, result.windows)
        if not math.isfinite(score):
            raise ScoreNotFinite(score)
        return Measurement(score, anomaly_map, judged)

    def measure(self, data: bytes, rules: PixelRules = DEFAULT_RULES, area: Area = EVERYTHING) -> Measurement:
        """Decode, infer and score one image; see `read`, `infer` and `score` for the errors."""
        image = self.read(data, rules)
        return self.score(image, self.infer(image), area)

    def close(self, *, drain: bool = True) -> None:
        """Finish the queued images (or refuse them, without `drain`), end the inference thread and free the graph."""
        self.batcher.close(drain=drain)
        self.session.close()


def check_parity(bundle: Bundle, provider: Provider, difference: float) -> None:
    """Compare the largest difference of a self-test with the tolerance in the manifest.

    Raises:
        ParityFailure: The difference is larger, or not a number.
    """
    tolerance = bundle.manifest.parity.tolerance
    if not difference <= tolerance:
        raise ParityFailure(bundle.path, provider, difference, tolerance)


@dataclass(frozen=True)
class SelfTestResult:
    """The result of a self-test that a bundle passed.

    Attributes:
        provider: The execution provider.
        difference: Largest relative difference from the results that training recorded.
    """

    provider: Provider
    difference: float


class Inspector(Measurer, BundleRules):
    """A measurer with a verified bundle, which returns verdicts.

    Args:
        bundle: The verified bundle.
        session: Its graph.
        options: Batching options and image limits.
        difference: Largest relative difference of its self-test on the provider in use.
        open_narrow: See `MicroBatcher`.
    """

    def __init__(
        self,
        bundle: Bundle,
        session: Session,
        options: InspectorOptions,
        difference: float,
        open_narrow: Callable[[], GraphSession | None] | None = None,
    ) -> None:
        Measurer.__init__(self, session, bundle.manifest.input, bundle.manifest.score_rule, options, open_narrow)
        BundleRules.__init__(self, bundle)
        self.self_test_difference = difference

    @classmethod
    def load(cls, path: Path, options: InspectorOptions | None = None) -> Self:
        """Verify a bundle, open its graph, run the golden samples on the provider that will serve, and warm up.

        Args:
            path: The bundle's folder.
            options: How to run it.

        Raises:
            BundleInvalid: The bundle is not valid; a subclass such as `ParityFailure` names the reason.
            ProviderUnavailable: The requested provider cannot be used.
        """
        return cls.open(Bundle.load(path), options or InspectorOptions())

    @classmethod
    def open(cls, bundle: Bundle, options: InspectorOptions) -> Self:
        """Open the graph of a verified bundle, run the golden samples on the provider that will serve, and warm up.

        Args:
            bundle: The verified bundle.
            options: How to run it.

        Raises:
            BundleIntegrity: The graph has changed since the bundle was verified.
            ParityFailure: The results of the golden samples differ from those that training recorded.
            ProviderUnavailable: The requested provider cannot be used.
        """
        session = options.engine.open(bundle, options.session)
        difference = session.self_test(bundle.golden)
        check_parity(bundle, session.provider, difference)
        session.warm_up(range(1, options.batching.max_batch + 1))
        return cls._with_layout(bundle, session, options, difference)

    @classmethod
    def reopen(cls, bundle: Bundle, options: InspectorOptions, passed: SelfTestResult) -> Self:
        """Open the graph of a bundle again that this process had opened before, and run its first golden sample.

        The same graph returns the same results on the same provider, so the other samples are not repeated. The one
        that runs also warms up the graph.

        Args:
            bundle: The bundle. Its files are verified again.
            options: How to run it, as before.
            passed: The result of its whole self-test. It is repeated if the provider is another one now.

        Raises:
            BundleIntegrity, ParityFailure, ProviderUnavailable: As for `open`.
        """
        session = options.engine.open(bundle, options.session)
        if session.provider == passed.provider:
            difference = max(passed.difference, session.self_test([bundle.read_golden()], in_batch=False))
        else:
            difference = session.self_test(bundle.golden)
        check_parity(bundle, session.provider, difference)
        session.warm_up(range(2, options.batching.max_batch + 1))
        return cls._with_layout(bundle, session, options, difference)

    @classmethod
    def _with_layout(cls, bundle: Bundle, session: Session, options: InspectorOptions, difference: float) -> Self:
        layout = choose_layout(bundle, session, options.batching)
        batching = replace(options.batching, concurrency=layout.concurrency)
        return cls(bundle, session, replace(options, batching=batching), difference, layout.open_narrow)

    @property
    def self_test_result(self) -> SelfTestResult:
        """Return the result of the self-test."""
        return SelfTestResult(self.provider, self.self_test_difference)

    def finish(
        self, image: PreparedImage, result: PatchResult, criteria: Criteria, reference: Sequence[float] | None = None
    ) -> Inspection:
        """Score and judge the result of the graph.

        Args:
            image: The prepared image.
            result: The result of the graph for it.
            criteria: The criteria to apply.
            reference: Scores of good images, ascending, for the p-value: those that the thresholds were derived from.
                None uses those of the calibration card.

        Raises:
            ScoreNotFinite, AreaMismatch: As in `score`.
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
        """Inspect one image: run all steps.

        Args:
            data: The encoded image or the camera buffer.
            criteria: The criteria to apply.
            reference: As in `finish`.
            rules: What the recipe and the sender declare about its pixels.
            copies: Batch size for `run_copies`. None queues the image for the batcher.

        Raises:
            BodyTooLarge, TooManyPixels, ImageTooComplex, NotAnImage, UnsupportedImage, CorruptImage,
                BufferSizeMismatch, PixelMismatch: The image is not usable.
            AreaMismatch: Its size does not fit the polygons of the criteria.
            ScoreNotFinite: The score is NaN or infinite.
            QueueFull, DeadlineExceeded, ShuttingDown: The image cannot be processed now.
        """
        image = self.read(data, rules)
        result = self.infer(image) if copies is None else self.run_copies(image, copies)
        return self.finish(image, result, criteria, reference)


def _tiles_at_once(options: BatchingOptions) -> int:
    """Return how many tiles of one image may wait or run at a time: some batches run while the next ones form."""
    return 2 * options.max_batch * (options.concurrency or 1)


def _batching(geometry: InputGeometry, options: BatchingOptions) -> BatchingOptions:
    """Return the options of the batcher. Its queue limit counts tiles, the option counts images."""
    if geometry.tiling is None:
        return options
    return replace(options, queue_limit=options.queue_limit * _tiles_at_once(options))
