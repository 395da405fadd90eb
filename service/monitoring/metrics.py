"""Prometheus metrics. Each application has its own registry, so two applications in one process do not mix.

Label values come from closed sets only: products of the model repository, routes of the route table, problem types of
the code. Values from requests never become time series.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

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

from service.monitoring.outbox_metrics import OutboxMetrics
from service.monitoring.score_histogram import ScoreHistogram, score_buckets
from service.schemas.review import ReviewLabel
from service.schemas.sections import InvalidReason

if TYPE_CHECKING:
    from service.bundle.bundle import Bundle
    from service.errors import PlumblineError
    from service.recipes.recipe import Recipe

# Dense in the range of an inspection (1-100 ms), so that a regression of a few milliseconds is visible in a quantile.
STAGE_BUCKETS_S = (
    0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5,
    1, 2.5, 5, 10,
)  # fmt: skip
# The p-values of good parts are spread evenly over (0, 1], so each tenth receives a tenth of them.
P_VALUE_BUCKETS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1)
BATCH_BUCKETS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64)
DECISIONS = ("pass", "review", "fail", "invalid")
SHADOW_OUTCOMES = ("judged", "failed", "dropped")
SHED_REASONS = ("queue_full", "deadline_exceeded", "memory_budget_exceeded", "shutting_down", "store_unavailable")
CloseReason = Literal["limit", "replaced", "idle", "headers", "write", "malformed", "frame_memory"]
"""Why a connection was closed by the service."""
UNMATCHED_ROUTE = "unmatched"

# The `_created` series of the client library would double the number of series and are not used.
disable_created_metrics()  # type: ignore[no-untyped-call]


class Metrics:
    """All metrics of an application.

    Attributes:
        registry: The registry that `/metrics` exposes.
        outbox: Metrics of the outbox.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.outbox = OutboxMetrics(self.registry)
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
        self.artefacts_removed = Counter(
            "inspection_artefacts_removed_total",
            "Inspections whose image and map were removed by retention.",
            ["product", "decision"],
            registry=self.registry,
        )
        self.retention_failures = Counter(
            "inspection_retention_failures_total",
            "Images or maps that retention could not remove; removal is retried.",
            registry=self.registry,
        )
        self.audit_entries = Gauge(
            "inspection_audit_entries", "Entries of the audit log, as last reported.", registry=self.registry
        )
        self.audit_violations = Counter(
            "inspection_audit_violations_total", "Reports of changed or removed audit entries.", registry=self.registry
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
        self.reviews = Counter(
            "inspection_reviews_total",
            "Reviews of inspections by people, by the label they gave.",
            ["product", "label"],
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
        self.scores = ScoreHistogram(
            "inspection_score",
            "Raw image scores, in buckets around the scores of the bundle's calibration images.",
        )
        self.registry.register(self.scores)
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
        self.certificate_expiry = Gauge(
            "inspection_tls_certificate_expiry_timestamp_seconds",
            "When the TLS certificate in use expires; 0 without TLS.",
            registry=self.registry,
        )
        self.shed = Counter(
            "inspection_shed_total", "Inspections rejected for lack of capacity.", ["reason"], registry=self.registry
        )
        self.models = Gauge(
            "inspection_model_info",
            "1 for every active bundle.",
            ["product", "version", "sha256", "provider"],
            registry=self.registry,
        )
        self.shadow_models = Gauge(
            "inspection_shadow_model_info",
            "1 for every bundle in shadow deployment.",
            ["product", "version", "sha256"],
            registry=self.registry,
        )
        self.bundle_changes = Counter(
            "inspection_bundle_changes_total",
            "Requested changes of active and shadow bundles, by kind of change and outcome.",
            ["product", "change", "outcome"],
            registry=self.registry,
        )
        self.shadow_runs = Counter(
            "inspection_shadow_runs_total",
            "Inspections that a shadow bundle judged, failed to judge, or dropped because its queue was full.",
            ["product", "outcome"],
            registry=self.registry,
        )
        self.thresholds = Gauge(
            "inspection_threshold",
            "Thresholds in force, on the raw score.",
            ["product", "kind"],
            registry=self.registry,
        )
        self.target_rates = Gauge(
            "inspection_target_rate",
            "Bound on the share of good parts above a threshold in force; absent for thresholds set by hand.",
            ["product", "kind"],
            registry=self.registry,
        )
        self.recipes = Gauge(
            "inspection_recipe_revision", "Recipe revision in force.", ["product"], registry=self.registry
        )
        self.ready = Gauge("inspection_ready", "1 while /health/ready returns 200.", registry=self.registry)
        self.insecure = Gauge(
            "inspection_insecure",
            "1 while the network may reach the service without any API key or account (PLUMBLINE_INSECURE).",
            registry=self.registry,
        )
        self.disk_free = Gauge(
            "inspection_disk_free_bytes",
            "Free bytes on the file system of a folder of the service; NaN if the folder cannot be read.",
            ["folder"],
            registry=self.registry,
        )
        self.disk_total = Gauge(
            "inspection_disk_total_bytes",
            "Size of the file system of a folder of the service, in bytes; NaN if the folder cannot be read.",
            ["folder"],
            registry=self.registry,
        )
        self.http_requests = Counter(
            "http_requests_total", "HTTP requests.", ["method", "route", "status"], registry=self.registry
        )
        self.http_duration = Histogram(
            "http_request_duration_seconds",
            "Time from the first byte of the request to the last byte of the response, by class of the status code.",
            ["method", "route", "status_class"],
            buckets=STAGE_BUCKETS_S,
            registry=self.registry,
        )
        self.problems = Counter(
            "inspection_problems_total", "Problem responses, by the last part of the problem type.", ["type"],
            registry=self.registry,
        )  # fmt: skip
        self.connections = Gauge("http_connections", "Open connections, streams included.", registry=self.registry)
        self.connections_closed = Counter(
            "http_connections_closed_total",
            "Connections that the service refused or closed, by reason.",
            ["reason"],
            registry=self.registry,
        )
        self.body_bytes = Gauge(
            "http_body_bytes",
            "Memory reserved for bodies in flight, by direction, in bytes.",
            ["direction"],
            registry=self.registry,
        )
        self.body_bytes_limit = Gauge(
            "http_body_bytes_limit", "Maximum memory for bodies in flight, per direction.", registry=self.registry
        )
        for reason in SHED_REASONS:
            self.shed.labels(reason)
        for direction in ("forwards", "backwards"):
            self.clock_jumps.labels(direction)
        for reason in get_args(CloseReason):
            self.connections_closed.labels(reason)

    def set_queue(self, depth: Callable[[], int], limit: int) -> None:
        """Set the source of the queue's depth, which is read at every scrape, and its limit."""
        self.queue_depth.set_function(depth)
        self.queue_limit.set(limit)

    def set_folders(self, folders: Mapping[str, Path]) -> None:
        """Set the folders whose disk space is exposed. It is read at every scrape.

        Args:
            folders: Folder by the value of the label `folder`.
        """
        for name, path in folders.items():
            self.disk_free.labels(name).set_function(partial(_disk_bytes, path, "free"))
            self.disk_total.labels(name).set_function(partial(_disk_bytes, path, "total"))

    def set_body_memory(self, requests: Callable[[], int], responses: Callable[[], int], limit_bytes: int) -> None:
        """Set the sources of the memory that bodies use, which are read at every scrape, and its limit."""
        self.body_bytes.labels("request").set_function(requests)
        self.body_bytes.labels("response").set_function(responses)
        self.body_bytes_limit.set(limit_bytes)

    def set_product(self, bundle: Bundle, provider: str) -> None:
        """Set the active bundle of a product, and create the product's series."""
        product = bundle.manifest.product
        _set_series(self.models, product, bundle.version, bundle.digest, provider)
        self.scores.add(product, score_buckets(bundle.card.scores))
        for decision in DECISIONS:
            self.inspections.labels(product, decision)
            self.artefacts_removed.labels(product, decision)
        for reason in InvalidReason:
            self.invalid.labels(product, reason.value)
        for label in get_args(ReviewLabel):
            self.reviews.labels(product, label)
        self.softened.labels(product)
        self.inspection_duration.labels(product)
        self.p_values.labels(product)

    def set_shadow(self, product: str, bundle: Bundle | None) -> None:
        """Set the shadow bundle of a product; None removes it."""
        if bundle is None:
            _remove_series(self.shadow_models, product)
            return
        _set_series(self.shadow_models, product, bundle.version, bundle.digest)
        for outcome in SHADOW_OUTCOMES:
            self.shadow_runs.labels(product, outcome)

    def set_recipe(self, product: str, recipe: Recipe, revision: int) -> None:
        """Set thresholds, target rates and revision of the recipe in force."""
        self.thresholds.labels(product, "fail").set(recipe.fail_threshold)
        self.thresholds.labels(product, "review").set(recipe.review_threshold)
        for kind, rate in (("fail", recipe.target_false_reject_rate), ("review", recipe.review_rate)):
            if rate is not None:
                self.target_rates.labels(product, kind).set(rate)
            else:
                self.target_rates.remove(product, kind)
        self.recipes.labels(product).set(revision)

    def count_inspection(
        self,
        product: str,
        decision: str,
        *,
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
            score: Raw image score.
            p_value: p-value of the score, in (0, 1].
            duration_s: Seconds from the complete receipt of the image to its stored verdict.
            timings_s: Seconds by stage.
            batch_size: Number of images in its batch.
        """
        self.inspections.labels(product, decision).inc()
        self.scores.observe(product, score)
        self.p_values.labels(product).observe(p_value)
        self.batch_size.observe(batch_size)
        self._observe_times(product, duration_s, timings_s)

    def count_refusal(self, error: PlumblineError) -> None:
        """Count an image that was rejected without an HTTP response of its own (streams and batches)."""
        self.problems.labels(error.slug).inc()
        self.count_shed(error)

    def count_shed(self, error: PlumblineError) -> None:
        """Count an image that was refused for lack of capacity. Other errors are not counted."""
        if (reason := error.slug.replace("-", "_")) in SHED_REASONS:
            self.shed.labels(reason).inc()

    def count_invalid(
        self, product: str, reasons: Iterable[str], duration_s: float, timings_s: Mapping[str, float]
    ) -> None:
        """Count an image that the quality check rejected. It has no score and no batch.

        Args:
            product: The product.
            reasons: Names of the failed checks.
            duration_s: Seconds from the complete receipt of the image to its stored verdict.
            timings_s: Seconds by stage.
        """
        self.inspections.labels(product, "invalid").inc()
        for reason in reasons:
            self.invalid.labels(product, reason).inc()
        self._observe_times(product, duration_s, timings_s)

    def count_request(self, method: str, route: str, status: int, duration_s: float) -> None:
        """Count an HTTP request.

        Args:
            method: HTTP method, from a closed set.
            route: Template of the route, or `UNMATCHED_ROUTE`.
            status: Status code of the response; 0 if none was sent.
            duration_s: Seconds from the first byte of the request to the last byte of the response.
        """
        self.http_requests.labels(method, route, str(status)).inc()
        self.http_duration.labels(method, route, status_class(status)).observe(duration_s)

    def _observe_times(self, product: str, duration_s: float, timings_s: Mapping[str, float]) -> None:
        self.inspection_duration.labels(product).observe(duration_s)
        for stage, seconds in timings_s.items():
            self.stages.labels(stage).observe(seconds)

    def expose(self) -> bytes:
        """Return all metrics in the Prometheus text format."""
        return generate_latest(self.registry)


def status_class(status: int) -> str:
    """Return the class of an HTTP status code, such as `2xx`; `none` if no response was sent."""
    return f"{status // 100}xx" if status else "none"


def _disk_bytes(folder: Path, field: str) -> float:
    """Return free or total bytes of the folder's file system; NaN if it cannot be read, so that `/metrics` responds."""
    try:
        return float(getattr(shutil.disk_usage(folder), field))
    except OSError:
        return math.nan


def _set_series(gauge: Gauge, product: str, *labels: str) -> None:
    """Set the series with these labels to 1, and remove the product's other series of the gauge."""
    gauge.labels(product, *labels).set(1)
    _remove_series(gauge, product, keep=labels)


def _remove_series(gauge: Gauge, product: str, *, keep: tuple[str, ...] | None = None) -> None:
    for metric in gauge.collect():
        for sample in metric.samples:
            labels = tuple(sample.labels.values())
            if labels[0] == product and labels[1:] != keep:
                gauge.remove(*labels)
