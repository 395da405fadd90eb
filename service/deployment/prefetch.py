"""Load the bundles of the products that were inspected most, after the start and before their first image.

It fills memory that is free, and never unloads a bundle. One bundle is loaded at a time, and none while others are
being loaded for images.
"""

from __future__ import annotations

import structlog
from sqlalchemy import Engine

from service.deployment.registry import Registry
from service.deployment.served import LoadResult
from service.errors import PlumblineError, ShuttingDown
from service.monitoring.bundle_store_metrics import BundleStoreMetrics
from service.store.errors import BundleStoreUnavailable, StoreUnavailable
from service.store.recent_use import most_used_products

log = structlog.get_logger(__name__)
_POLL_S = 0.05


def prefetch(registry: Registry, engine: Engine, metrics: BundleStoreMetrics) -> None:
    """Load the bundles of the products that were inspected most in the last 24 hours, as far as they fit into memory.

    Returns when all that fit are loaded, the bundle store cannot be reached, or the registry is closed. A bundle that
    cannot be loaded is recorded as every other one.

    Args:
        registry: The registry, with all products in force.
        engine: The database.
        metrics: Counts the bundles.
    """
    memory = registry.memory
    if memory.limits.limit_bytes is None:
        return  # all bundles are loaded
    try:
        products = most_used_products(engine)
    except StoreUnavailable as error:
        log.warning("bundles not loaded ahead", reason=error.detail)
        return
    count = 0
    for product in products:
        active = registry.active.get(product)
        if active is None or active.served.is_loaded:
            continue
        while memory.is_loading and not registry.wait_closing(_POLL_S):
            pass
        if registry.closing:
            break
        if not memory.has_room_for(active.served):
            continue  # a smaller one may fit
        failure = _wait(registry, memory.request(active.served))
        if failure is None:
            count += 1
            metrics.prefetched.inc()
        elif type(failure) is BundleStoreUnavailable:  # not damaged, which affects one bundle only
            break  # the others would wait for it, too, and would be recorded as broken
    log.info("bundles loaded ahead", count=count)


def _wait(registry: Registry, load: LoadResult) -> PlumblineError | None:
    """Return why a bundle could not be loaded; None if it was."""
    while not load.done() and not registry.wait_closing(_POLL_S):
        pass
    return load.result() if load.done() else ShuttingDown()
