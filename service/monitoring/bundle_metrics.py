"""Metrics of the bundles and recipes in force, by product."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge

if TYPE_CHECKING:
    from service.bundle.bundle import Bundle
    from service.recipes.recipe import Recipe

SHADOW_OUTCOMES = ("judged", "failed", "dropped")


class BundleMetrics:
    """The metrics of bundles and recipes.

    Args:
        registry: The registry that `/metrics` exposes.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.models = Gauge(
            "inspection_model_info",
            "1 for every active bundle.",
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

    def set_active(self, bundle: Bundle, provider: str) -> None:
        """Set the active bundle of a product."""
        _set_series(self.models, bundle.manifest.product, bundle.version, bundle.digest, provider)

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
