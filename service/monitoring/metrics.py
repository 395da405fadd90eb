"""Prometheus metrics, one registry per application so that two applications in one process do not mix.

Label values come from closed sets only: products from the model repository, routes from the route table,
problem types from the code. What a client makes up never becomes a time series.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

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

from service.inspection.quality import InvalidReason
from service.monitoring.score_histogram import ScoreHistogram

if TYPE_CHECKING:
    from service.bundle.bundle import Bundle
    from service.errors import PlumblineError
    from service.recipes.recipe import Recipe

# Dense where an inspection lives (1-100 ms), so that a regression of a few milliseconds shows in a quantile.
STAGE_BUCKETS_S = (
    0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5,
    1, 2.5, 5, 10,
)  # fmt: skip
BATCH_BUCKETS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64)
DECISIONS = ("pass", "review", "fail", "invalid")
SHADOW_OUTCOMES = ("judged", "failed", "dropped")
SHED_REASONS = ("queue_full", "deadline_exceeded", "shutting_down", "store_unavailable")
UNMATCHED_ROUTE = "unmatched"

# The library's extra `_created` series would double the number of series for a figure that nobody plots.
disable_created_metrics()  # type: ignore[no-untyped-call]


class Metrics:
    """Everything that `/metrics` shows."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self.inspections = Counter(
            "inspection_requests_total",
            "Answered inspections.",
            ["product", "decision"],
            registry=self.registry,
        )
        self.invalid = Counter(
            "inspection_invalid_total",
            "Reasons why images were not judged; an image may have several.",
            ["product", "reason"],
            registry=self.registry,
        )
        self.artefacts_removed = Counter(
            "inspection_artefacts_removed_total",
            "Inspections whose image and map were removed because the recipe's retention says so.",
            ["product", "decision"],
            registry=self.registry,
        )
        self.retention_failures = Counter(
            "inspection_retention_failures_total",
            "Images or maps that retention could not remove; they are tried again.",
            registry=self.registry,
        )
        self.softened = Counter(
            "inspection_softened_total",
            "Verdicts that region filters made milder than the score alone.",
            ["product"],
            registry=self.registry,
        )
        self.stages = Histogram(
            "inspection_stage_duration_seconds",
            "Time that an answered inspection spent in one stage.",
            ["stage"],
            buckets=STAGE_BUCKETS_S,
            registry=self.registry,
        )
        self.scores = ScoreHistogram(
            "inspection_score",
            "Raw image scores, in buckets laid around the scores of the bundle's calibration images.",
        )
        self.registry.register(self.scores)
        self.batch_size = Histogram(
            "inspection_batch_size",
            "Images that shared the graph run of an answered inspection.",
            buckets=BATCH_BUCKETS,
            registry=self.registry,
        )
        self.queue_depth = Gauge(
            "inspection_queue_depth", "Inspections in the house, waiting or in work.", registry=self.registry
        )
        self.queue_limit = Gauge(
            "inspection_queue_limit",
            "Inspections that may be in the house at a time.",
            registry=self.registry,
        )
        self.streams = Gauge("inspection_streams", "Cameras that stream over a WebSocket now.", registry=self.registry)
        self.shed = Counter(
            "inspection_shed_total",
            "Inspections refused for lack of capacity.",
            ["reason"],
            registry=self.registry,
        )
        self.models = Gauge(
            "inspection_model_info",
            "1 for every bundle that serves.",
            ["product", "version", "sha256", "provider"],
            registry=self.registry,
        )
        self.shadow_models = Gauge(
            "inspection_shadow_model_info",
            "1 for every bundle that judges as a shadow and decides nothing.",
            ["product", "version", "sha256"],
            registry=self.registry,
        )
        self.bundle_changes = Counter(
            "inspection_bundle_changes_total",
            "Attempts to exchange the bundle that serves, by what was wanted and whether it was done.",
            ["product", "change", "outcome"],
            registry=self.registry,
        )
        self.shadow_runs = Counter(
            "inspection_shadow_runs_total",
            "Inspections that a shadow judged, failed to judge, or had to let go because it was too slow.",
            ["product", "outcome"],
            registry=self.registry,
        )
        self.thresholds = Gauge(
            "inspection_threshold",
            "Thresholds in force, on the raw score.",
            ["product", "kind"],
            registry=self.registry,
        )
        self.recipes = Gauge(
            "inspection_recipe_revision", "Recipe revision in force.", ["product"], registry=self.registry
        )
        self.ready = Gauge("inspection_ready", "1 while /health/ready answers 200.", registry=self.registry)
        self.http_requests = Counter(
            "http_requests_total", "HTTP requests.", ["method", "route", "status"], registry=self.registry
        )
        self.http_duration = Histogram(
            "http_request_duration_seconds",
            "Time from the request's first byte to the answer's last.",
            ["method", "route"],
            buckets=STAGE_BUCKETS_S,
            registry=self.registry,
        )
        self.problems = Counter(
            "inspection_problems_total", "Problems answered, by the last part of their type.", ["type"],
            registry=self.registry,
        )  # fmt: skip
        for reason in SHED_REASONS:
            self.shed.labels(reason)

    def watch_queue(self, depth: Callable[[], int], limit: int) -> None:
        """Read the queue's depth whenever somebody asks, rather than at every change."""
        self.queue_depth.set_function(depth)
        self.queue_limit.set(limit)

    def show_product(self, bundle: Bundle, provider: str) -> None:
        """Announce a bundle that serves; from now on its product may be a label value."""
        product = bundle.manifest.product
        _announce(self.models, product, bundle.version, bundle.digest, provider)
        self.scores.add(product, score_buckets(bundle.card.scores))
        for decision in DECISIONS:
            self.inspections.labels(product, decision)
            self.artefacts_removed.labels(product, decision)
        for reason in InvalidReason:
            self.invalid.labels(product, reason.value)
        self.softened.labels(product)

    def show_shadow(self, product: str, bundle: Bundle | None) -> None:
        """Announce the bundle that watches a product; None where there is none any more."""
        if bundle is None:
            _withdraw(self.shadow_models, product)
            return
        _announce(self.shadow_models, product, bundle.version, bundle.digest)
        for outcome in SHADOW_OUTCOMES:
            self.shadow_runs.labels(product, outcome)

    def show_recipe(self, product: str, recipe: Recipe, revision: int) -> None:
        self.thresholds.labels(product, "fail").set(recipe.fail_threshold)
        self.thresholds.labels(product, "review").set(recipe.review_threshold)
        self.recipes.labels(product).set(revision)

    def count_inspection(
        self, product: str, decision: str, score: float, timings_s: Mapping[str, float], batch_size: int
    ) -> None:
        self.inspections.labels(product, decision).inc()
        self.scores.observe(product, score)
        self.batch_size.observe(batch_size)
        for stage, seconds in timings_s.items():
            self.stages.labels(stage).observe(seconds)

    def count_refusal(self, error: PlumblineError) -> None:
        """Count an image that was refused where no HTTP answer of its own says so."""
        self.problems.labels(error.slug).inc()
        if (reason := error.slug.replace("-", "_")) in SHED_REASONS:
            self.shed.labels(reason).inc()

    def count_invalid(self, product: str, reasons: Iterable[str], timings_s: Mapping[str, float]) -> None:
        """Count an image that was not worth a verdict. It has no score and no batch."""
        self.inspections.labels(product, "invalid").inc()
        for reason in reasons:
            self.invalid.labels(product, reason).inc()
        for stage, seconds in timings_s.items():
            self.stages.labels(stage).observe(seconds)

    def expose(self) -> bytes:
        return generate_latest(self.registry)


def _announce(gauge: Gauge, product: str, *labels: str) -> None:
    """Let a product's only series of a gauge be the one with these labels."""
    gauge.labels(product, *labels).set(1)
    _withdraw(gauge, product, but=labels)


def _withdraw(gauge: Gauge, product: str, *, but: tuple[str, ...] | None = None) -> None:
    for metric in gauge.collect():
        for sample in metric.samples:
            labels = tuple(sample.labels.values())
            if labels[0] == product and labels[1:] != but:
                gauge.remove(*labels)


def score_buckets(scores: list[float]) -> list[float]:
    """Upper bounds of a product's score buckets, ascending, around its largest calibration score.

    Args:
        scores: Scores of the held-out good images, ascending.
    """
    middle, top = scores[len(scores) // 2], scores[-1]
    # Identical scores would lay every bucket on one point.
    step = max(top - middle, abs(top) * 1e-3, 1e-9)
    factors = (-2, -1, -0.5, 0, 0.25, 0.5, 0.75, 1, 1.25, 1.5, 2, 3, 4, 6, 8, 12, 20)
    bounds = [middle + step * factor for factor in factors]
    # Where no score is negative, no bucket is: Prometheus takes a negative bound to mean that a sum makes no sense.
    return bounds if scores[0] < 0 else [bound for bound in bounds if bound >= 0]
