"""Metrics of the bundles and recipes in force, by product."""

from __future__ import annotations

import itertools
import threading
import time
from typing import TYPE_CHECKING, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge

from service.inspection.decision import Decision

if TYPE_CHECKING:
    from service.bundle.bundle import Bundle
    from service.recipes.recipe import Recipe

ValueT = TypeVar("ValueT", str, int)
SHADOW_OUTCOMES = ("judged", "failed", "dropped")
VERDICTS = tuple(verdict.value for verdict in Decision if verdict is not Decision.INVALID)
CHANGES = ("activate", "roll_back", "shadow", "stop_shadow")
QUALITY_MEASURES = ("brightness", "contrast", "sharpness")
"""Quality measures that are exposed. The shares of clipped pixels are not: nearly all of them are 0."""
BOUNDS = ("low", "median", "high")
NOT_LOADED = "none"
CALIBRATION_QUANTILES = (0.05, 0.5, 0.95, 1.0)


class BundleMetrics:
    """The metrics of bundles and recipes.

    Args:
        registry: The registry that `/metrics` exposes.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.models = Gauge(
            "inspection_model_info",
            "1 for every active bundle. The provider is `none` before a bundle is loaded on demand for the first time.",
            ["product", "version", "sha256", "provider"],
            registry=registry,
        )
        self.shadow_models = Gauge(
            "inspection_shadow_model_info",
            "1 for every bundle in shadow deployment.",
            ["product", "version", "sha256"],
            registry=registry,
        )
        self.bundle_changes = Counter(
            "inspection_bundle_changes_total",
            "Requested changes of active and shadow bundles, by kind of change and outcome.",
            ["product", "change", "outcome"],
            registry=registry,
        )
        self.shadow_runs = Counter(
            "inspection_shadow_runs_total",
            "Inspections that a shadow bundle judged, failed to judge, or dropped because its queue was full.",
            ["product", "outcome"],
            registry=registry,
        )
        self.shadow_verdicts = Counter(
            "inspection_shadow_verdicts_total",
            "Inspections that a shadow bundle judged, by the decision of the active bundle and of the shadow bundle.",
            ["product", "active", "shadow"],
            registry=registry,
        )
        self.bundle_changed = Gauge(
            "inspection_bundle_changed_timestamp_seconds",
            "When this process last replaced the active bundle by another one; 0 if it did not since its start.",
            ["product"],
            registry=registry,
        )
        self.recipe_changed = Gauge(
            "inspection_recipe_changed_timestamp_seconds",
            "When this process last put another recipe revision in force; 0 if it did not since its start.",
            ["product"],
            registry=registry,
        )
        self.calibration_scores = Gauge(
            "inspection_calibration_score",
            "Quantiles of the scores of the active bundle's calibration images; the quantile 1 is the largest score.",
            ["product", "quantile"],
            registry=registry,
        )
        self.calibration_quality = Gauge(
            "inspection_calibration_quality",
            "Smallest (low), median and largest (high) value of a quality measure of the active bundle's calibration "
            "images.",
            ["product", "measure", "bound"],
            registry=registry,
        )
        self.concurrent_runs = Gauge(
            "inspection_concurrent_runs",
            "Inference runs of the active bundle that may be in progress at the same time while images wait. With 1 "
            "they follow each other.",
            ["product"],
            registry=registry,
        )
        self.thresholds = Gauge(
            "inspection_threshold",
            "Thresholds in force, on the raw score.",
            ["product", "kind"],
            registry=registry,
        )
        self.target_rates = Gauge(
            "inspection_target_rate",
            "Bound on the share of good parts above a threshold in force; absent for thresholds set by hand.",
            ["product", "kind"],
            registry=registry,
        )
        self.recipes = Gauge("inspection_recipe_revision", "Recipe revision in force.", ["product"], registry=registry)
        self._active, self._shadows = _ProductSeries(self.models), _ProductSeries(self.shadow_models)
        self._digests: dict[str, str] = {}
        self._revisions: dict[str, int] = {}

    def set_active(self, bundle: Bundle, provider: str | None) -> None:
        """Set the active bundle of a product.

        Args:
            bundle: The bundle.
            provider: The execution provider; None if the bundle was not loaded yet.
        """
        product = bundle.manifest.product
        self._active.set(product, bundle.version, bundle.digest, provider or NOT_LOADED)
        for change, outcome in itertools.product(CHANGES, ("done", "refused")):
            self.bundle_changes.labels(product, change, outcome)
        _set_changed(self.bundle_changed, self._digests, product, bundle.digest)

    def set_calibration(self, bundle: Bundle) -> None:
        """Set the scores and quality measures of the calibration images of a product's active bundle."""
        product, card = bundle.manifest.product, bundle.card
        for quantile in CALIBRATION_QUANTILES:
            score = card.scores[round(quantile * (len(card.scores) - 1))]
            self.calibration_scores.labels(product, f"{quantile:g}").set(score)
        if card.quality is None:
            for measure, bound in itertools.product(QUALITY_MEASURES, BOUNDS):
                self.calibration_quality.remove(product, measure, bound)
            return
        for measure, bound in itertools.product(QUALITY_MEASURES, BOUNDS):
            value = getattr(getattr(card.quality, measure), bound)
            self.calibration_quality.labels(product, measure, bound).set(value)

    def set_shadow(self, product: str, bundle: Bundle | None) -> None:
        """Set the shadow bundle of a product; None removes it."""
        if bundle is None:
            self._shadows.remove(product)
            return
        self._shadows.set(product, bundle.version, bundle.digest)
        for outcome in SHADOW_OUTCOMES:
            self.shadow_runs.labels(product, outcome)
        for active, shadow in itertools.product(VERDICTS, VERDICTS):
            self.shadow_verdicts.labels(product, active, shadow)

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
        _set_changed(self.recipe_changed, self._revisions, product, revision)


def _set_changed(gauge: Gauge, latest: dict[str, ValueT], product: str, value: ValueT) -> None:
    """Set the gauge to the present time if the value of the product differs from the one before."""
    if latest.setdefault(product, value) != value:
        gauge.labels(product).set(time.time())
    else:
        gauge.labels(product)
    latest[product] = value


class _ProductSeries:
    """A gauge with one series per product, whose other labels change.

    The labels are kept here, because to look for them among the series of all products takes time with each load of a
    bundle, and with the square of the number of products at the start.

    Args:
        gauge: Its first label is the product.
    """

    def __init__(self, gauge: Gauge) -> None:
        self._gauge = gauge
        self._lock = threading.Lock()
        self._labels: dict[str, tuple[str, ...]] = {}

    def set(self, product: str, *labels: str) -> None:
        """Set the series with these labels to 1, and remove the product's former one."""
        with self._lock:
            former, self._labels[product] = self._labels.get(product), labels
            self._gauge.labels(product, *labels).set(1)
            if former is not None and former != labels:
                self._gauge.remove(product, *former)

    def remove(self, product: str) -> None:
        """Remove the product's series if there is one."""
        with self._lock:
            former = self._labels.pop(product, None)
            if former is not None:
                self._gauge.remove(product, *former)
