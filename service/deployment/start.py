"""Load all products when the service starts, and then bundles ahead of the first images."""

from __future__ import annotations

import gc
from contextlib import ExitStack

from sqlalchemy import Engine

from service.deployment.prefetch import prefetch
from service.deployment.registry import Registry
from service.deployment.startup import Startup
from service.deployment.used_products import UsedProducts
from service.monitoring.bundle_store_metrics import BundleStoreMetrics


def load_products(
    registry: Registry,
    engine: Engine,
    metrics: BundleStoreMetrics,
    used: UsedProducts,
    *,
    is_followed: bool,
    ahead_s: float,
) -> None:
    """Load all products, and those that were not available for a while when they are. With a bundle store, load ahead.

    Args:
        registry: The registry.
        engine: The database.
        metrics: Counts the bundles that are loaded ahead.
        used: The products whose bundles were in memory when the service ended. From now on, the list is written.
        is_followed: Whether a `RevisionFollower` loads the products that have a recipe, when they can be loaded.
        ahead_s: Longest time for which the service is not ready while bundles are loaded ahead.
    """
    startup = Startup(registry, engine, is_followed=is_followed)
    is_shared = registry.source.is_shared
    with ExitStack() as retries:

        def load_ahead() -> None:
            # Imported modules and loaded bundles stay until the end. Without this, each garbage collection would
            # traverse all of them and pause every thread.
            gc.collect()
            gc.freeze()
            retries.enter_context(startup.fetching_again())
            if is_shared:
                prefetch(registry, engine, metrics, used.read())

        startup.run(load_ahead, ahead_s if is_shared else 0.0)
        if is_shared:
            used.start()
