"""The bundles and recipes in force, by product."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from types import MappingProxyType

from service.deployment.lease import ActiveProduct, Shadow
from service.deployment.served import ServedBundle
from service.monitoring.metrics import Metrics


class InForce:
    """What is in force for each product, and its metrics.

    Readers take no lock: each mapping is immutable and replaced as a whole.

    Args:
        metrics: Metrics to update when a bundle or a recipe is put in force.

    Attributes:
        active: Active bundle and recipe by product.
        shadows: Shadow deployment by product.
    """

    def __init__(self, metrics: Metrics) -> None:
        self.active: Mapping[str, ActiveProduct] = MappingProxyType({})
        self.shadows: Mapping[str, Shadow] = MappingProxyType({})
        self._metrics = metrics
        self._lock = threading.Lock()  # only held to replace a mapping, never during I/O

    def bundles(self) -> dict[tuple[str, str], bool]:
        """Return product and version of each bundle in force, and whether it is in memory."""
        active, shadows = self.active.values(), self.shadows.values()
        served = [*(one.served for one in active), *(one.served for one in shadows)]
        return {(one.bundle.manifest.product, one.bundle.version): one.is_loaded for one in served}

    def set_active(self, product: str, active: ActiveProduct) -> None:
        """Put a bundle and a recipe in force."""
        # The metrics first: inspections are counted as soon as the product can be inspected.
        self._metrics.set_product(active.bundle, active.served.provider)
        self._report_runs(active.served)
        self._metrics.bundles.set_recipe(product, active.recipe.recipe, active.recipe.revision)
        with self._lock:
            self.active = MappingProxyType({**self.active, product: active})

    def set_shadow(self, product: str, shadow: Shadow | None) -> None:
        """Put a shadow deployment in force; None ends it."""
        self._metrics.bundles.set_shadow(product, None if shadow is None else shadow.bundle)
        with self._lock:
            others = {name: other for name, other in self.shadows.items() if name != product}
            self.shadows = MappingProxyType(others if shadow is None else {**others, product: shadow})

    def report_loaded(self, served: ServedBundle) -> None:
        """Expose the execution provider of a bundle that was loaded on demand."""
        active = self.active.get(served.bundle.manifest.product)
        if active is not None and active.served is served:
            self._metrics.bundles.set_active(served.bundle, served.provider)
            self._report_runs(served)

    def _report_runs(self, served: ServedBundle) -> None:
        if served.concurrency is not None:
            self._metrics.bundles.concurrent_runs.labels(served.bundle.manifest.product).set(served.concurrency)
