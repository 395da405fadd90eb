"""Prometheus metrics. Each application has its own registry, so two applications in one process do not mix.

Label values come from closed sets: products of the model repository, routes of the route table, problem types of the
code. The only value from requests that becomes a label is the station, with a limit: see `station_metrics`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, get_args

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.exposition import generate_latest

from service.monitoring.buckets import (
    BATCH_BUCKETS,
    P_VALUE_BUCKETS,
    STAGE_BUCKETS_S,
    quality_buckets,
    score_buckets,
)
from service.monitoring.bundle_metrics import QUALITY_MEASURES, BundleMetrics
from service.monitoring.bundle_store_metrics import BundleStoreMetrics
from service.monitoring.drift_metrics import DriftMetrics
from service.monitoring.http_metrics import HttpMetrics
from service.monitoring.memory_metrics import MemoryMetrics
from service.monitoring.outbox_metrics import OutboxMetrics
from service.monitoring.recent import RecentInspections
from service.monitoring.scaled_histogram import ScaledHistogram
from service.monitoring.station_metrics import DECISIONS, StationMetrics
from service.monitoring.storage_metrics import StorageMetrics
from service.monitoring.training_metrics import TrainingMetrics
from service.schemas.review import ReviewLabel
from service.schemas.sections import InvalidReason

if TYPE_CHECKING:
    from service.bundle.bundle import Bundle
    from service.errors import PlumblineError
    from service.inspection.quality import Quality

SHED_REASONS = ("queue_full", "deadline_exceeded", "memory_budget_exceeded", "shutting_down", "store_unavailable")

# The `_created` series of the client library would double the number of series and are not used.
disable_created_metrics()  # type: ignore[no-untyped-call]


class Metrics:
    """All metrics of an application: those of inspections and of the service itself, and groups of others.

    Attributes:
        registry: The registry that `/metrics` exposes.
        bundles: Metrics of bundles and recipes.
        bundle_store: Metrics of the bundle store and of its local cache.
        drift: Metrics of drift.
        http: Metrics of requests and connections.
        memory: Metrics of the bundles in memory.
        outbox: Metrics of the outbox.
        recent: The inspections of the last minutes; not exposed.
        stations: Metrics by station.
        storage: Metrics of retention, audit log and disk space.
        training: Metrics of training jobs.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.bundles = BundleMetrics(self.registry)
        self.bundle_store = BundleStoreMetrics(self.registry)
        self.drift = DriftMetrics(self.registry)
        self.http = HttpMetrics(self.registry)
        self.memory = MemoryMetrics(self.registry)
        self.outbox = OutboxMetrics(self.registry)
        self.recent = RecentInspections()
        self.stations = StationMetrics(self.registry)
        self.storage = StorageMetrics(self.registry)
        self.training = TrainingMetrics(self.registry)
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self.inspections = Counter(
            "inspection_requests_total", "Completed inspections.", ["product", "decision"], registry=self.registry
        )
        self.invalid = Counter(
            "inspection_invalid_total",
            "Reasons of the quality check for rejecting images; an image may have several.",
            ["product", "reason"],
            registry=self.registry,
        )
        self.map_sync_failures = Counter(
            "inspection_map_sync_failures_total",
            "Anomaly maps that may be lost in a power failure, because the disk reported an error. The verdict and the "
            "image are stored.",
            registry=self.registry,
        )
        self.clock_jumps = Counter(
            "inspection_clock_jumps_total",
            "Jumps of the machine's clock by more than 5 seconds since the start.",
            ["direction"],
            registry=self.registry,
        )
        self.softened = Counter(
            "inspection_softened_total",
            "Verdicts that are milder than the score alone because of region filters.",
            ["product"],
            registry=self.registry,
        )
        self.trials = Counter(
            "inspection_trials_total",
            "Images that were judged for a trial and not stored. No other metric of inspections counts them.",
            ["product", "decision"],
            registry=self.registry,
        )
        self.reviews = Counter(
            "inspection_reviews_total",
            "Reviews of inspections by people, by the decision about the part and the label they gave.",
            ["product", "decision", "label"],
            registry=self.registry,
        )
        self.stages = Histogram(
            "inspection_stage_duration_seconds",
            "Time that a completed inspection spent in a stage.",
            ["stage"],
            buckets=STAGE_BUCKETS_S,
            registry=self.registry,
        )
        self.inspection_duration = Histogram(
            "inspection_duration_seconds",
            "Time from the complete receipt of an image to its stored verdict. Rejected requests are not included.",
            ["product"],
            buckets=STAGE_BUCKETS_S,
            registry=self.registry,
        )
        self.scores = ScaledHistogram(
            "inspection_score",
            "Raw image scores, in buckets around the scores of the bundle's calibration images.",
        )
        self.registry.register(self.scores)
        self.quality = ScaledHistogram(
            "inspection_image_quality",
            "Quality measures of images, rejected ones included, in buckets around those of the bundle's calibration "
            "images.",
            ["product", "measure"],
        )
        self.registry.register(self.quality)
        self.p_values = Histogram(
            "inspection_p_value",
            "p-values of judged images. Those of good parts like the calibration images are spread evenly.",
            ["product"],
            buckets=P_VALUE_BUCKETS,
            registry=self.registry,
        )
        self.batch_size = Histogram(
            "inspection_batch_size",
            "Images in the batch of a completed inspection.",
            buckets=BATCH_BUCKETS,
            registry=self.registry,
        )
        self.queue_depth = Gauge(
            "inspection_queue_depth", "Inspections in flight, queued or running.", registry=self.registry
        )
        self.queue_limit = Gauge(
            "inspection_queue_limit", "Maximum number of inspections in flight.", registry=self.registry
        )
        self.streams = Gauge("inspection_streams", "Cameras connected over a WebSocket.", registry=self.registry)
        self.event_streams = Gauge(
            "inspection_event_streams",
            "Open streams of stored inspections: live pages and other clients of /v1/inspections:events.",
            registry=self.registry,
        )
        self.slow_event_streams = Counter(
            "inspection_event_streams_slow_total",
            "Streams of stored inspections that were closed because their clients read too slowly.",
            registry=self.registry,
        )
        self.certificate_expiry = Gauge(
            "inspection_tls_certificate_expiry_timestamp_seconds",
            "When the TLS certificate in use expires; 0 without TLS.",
            registry=self.registry,
        )
        self.shed = Counter(
            "inspection_shed_total", "Inspections rejected for lack of capacity.", ["reason"], registry=self.registry
        )
        self.ready = Gauge("inspection_ready", "1 while /health/ready returns 200.", registry=self.registry)
        self.insecure = Gauge(
            "inspection_insecure",
            "1 while the network may reach the service without any API key or account (PLUMBLINE_INSECURE).",
            registry=self.registry,
        )
        for reason in SHED_REASONS:
            self.shed.labels(reason)
        for direction in ("forwards", "backwards"):
            self.clock_jumps.labels(direction)

    def set_queue(self, depth: Callable[[], int], limit: int) -> None:
        """Set the source of the queue's depth, which is read at every scrape, and its limit."""
        self.queue_depth.set_function(depth)
        self.queue_limit.set(limit)

    def set_product(self, bundle: Bundle, provider: str | None) -> None:
        """Set the active bundle of a product, and create the product's series.

        Args:
            bundle: The bundle.
            provider: The execution provider; None if the bundle was not loaded yet.
        """
        product = bundle.manifest.product
        self.bundles.set_active(bundle, provider)
        self.bundles.set_calibration(bundle)
        self.scores.add(score_buckets(bundle.card.scores), product)
        for measure in QUALITY_MEASURES:
            if bundle.card.quality is None:
                self.quality.remove(product, measure)
            else:
                self.quality.add(quality_buckets(getattr(bundle.card.quality, measure)), product, measure)
        for decision in DECISIONS:
            self.inspections.labels(product, decision)
            self.trials.labels(product, decision)
            self.storage.artefacts_removed.labels(product, decision)
        self.storage.records_removed.labels(product)
        for reason in InvalidReason:
            self.invalid.labels(product, reason.value)
        for decision, label in itertools.product(DECISIONS, get_args(ReviewLabel)):
            self.reviews.labels(product, decision, label)
        self.softened.labels(product)
        self.inspection_duration.labels(product)
        self.p_values.labels(product)

    def count_inspection(
        self,
        product: str,
        decision: str,
        *,
        station: str | None,
        quality: Quality,
        score: float,
        p_value: float,
        duration_s: float,
        timings_s: Mapping[str, float],
        batch_size: int,
    ) -> None:
        """Count a judged image.

        Args:
            product: The product.
            decision: pass, review or fail.
            station: Station of the image; None if it has none.
            quality: Quality measures of the image.
            score: Raw image score.
            p_value: p-value of the score, in (0, 1].
            duration_s: Seconds from the complete receipt of the image to its stored verdict.
            timings_s: Seconds by stage.
            batch_size: Number of images in its batch.
        """
        self._count_image(product, decision, station, quality)
        self.scores.observe(score, product)
        self.p_values.labels(product).observe(p_value)
        self.batch_size.observe(batch_size)
        self._observe_times(product, decision, duration_s, timings_s)

    def count_refusal(self, error: PlumblineError) -> None:
        """Count an image that was rejected without an HTTP response of its own (streams and batches)."""
        self.http.problems.labels(error.slug).inc()
        self.count_shed(error)

    def count_shed(self, error: PlumblineError) -> None:
        """Count an image that was refused for lack of capacity. Other errors are not counted."""
        if (reason := error.slug.replace("-", "_")) in SHED_REASONS:
            self.shed.labels(reason).inc()
            self.recent.count_shed(reason)

    def count_refused(self) -> int:
        """Return the number of images that were refused for lack of capacity since the start."""
        samples = (sample for family in self.shed.collect() for sample in family.samples)
        return int(sum(sample.value for sample in samples if sample.name.endswith("_total")))

    def count_invalid(
        self,
        product: str,
        reasons: Iterable[str],
        *,
        station: str | None,
        quality: Quality,
        duration_s: float,
        timings_s: Mapping[str, float],
    ) -> None:
        """Count an image that the quality check rejected. It has no score and no batch.

        Args:
            product: The product.
            reasons: Names of the failed checks.
            station: Station of the image; None if it has none.
            quality: Quality measures of the image.
            duration_s: Seconds from the complete receipt of the image to its stored verdict.
            timings_s: Seconds by stage.
        """
        self._count_image(product, "invalid", station, quality)
        for reason in reasons:
            self.invalid.labels(product, reason).inc()
        self._observe_times(product, "invalid", duration_s, timings_s)

    def _count_image(self, product: str, decision: str, station: str | None, quality: Quality) -> None:
        self.inspections.labels(product, decision).inc()
        self.stations.count(product, station, decision)
        for measure in QUALITY_MEASURES:
            self.quality.observe_known(getattr(quality, measure), product, measure)

    def _observe_times(self, product: str, decision: str, duration_s: float, timings_s: Mapping[str, float]) -> None:
        self.recent.add(product, decision, duration_s)
        self.inspection_duration.labels(product).observe(duration_s)
        for stage, seconds in timings_s.items():
            self.stages.labels(stage).observe(seconds)

    def expose(self) -> bytes:
        """Return all metrics in the Prometheus text format."""
        return generate_latest(self.registry)
