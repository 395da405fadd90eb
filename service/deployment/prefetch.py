"""Load bundles after the start and before the first images of their products.

First those that were in memory when this process ran last, then those of the products that were inspected most by all
replicas. It fills memory that is free, and never unloads a bundle. One bundle is loaded at a time, and none while
others are being loaded for images.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import wait

import structlog
from sqlalchemy import Engine

from service.deployment.registry import Registry
from service.deployment.served import LoadResult
from service.errors import PlumblineError, ShuttingDown
from service.monitoring.bundle_store_metrics import BundleStoreMetrics
from service.store.errors import BundleStoreUnavailable, StoreUnavailable
from service.store.recent_use import most_used_products

log = structlog.get_logger(__name__)
LIMIT_S = 300.0
"""Longest time of it, in seconds. Bundles are loaded for images meanwhile, which may never pause."""
_POLL_S = 0.05
_STEP_S = 1e-3


def prefetch(
    registry: Registry,
    engine: Engine,
    metrics: BundleStoreMetrics,
    used: Sequence[str] = (),
    limit_s: float = LIMIT_S,
) -> None:
    """Load bundles ahead, as far as they fit into memory.

    After the given products, these are those that were inspected most in the last 24 hours. Returns when all that fit
    are loaded, the time is over, the bundle store cannot be reached, or the registry is closed. A bundle that cannot be
    loaded is recorded as every other one.

    Args:
        registry: The registry, with all products in force.
        engine: The database.
        metrics: Counts the bundles.
        used: Products whose bundles were in memory when this process ran last, the one that was used last first.
        limit_s: Longest time in seconds. A load that has begun is waited for.
    """
    memory = registry.memory
    if memory.limits.limit_bytes is None:
        return  # all bundles are loaded
    products = list(used)
    try:
        products += most_used_products(engine)
    except StoreUnavailable as error:
        log.warning("most used products not known", reason=error.detail)
    count, begun = 0, time.monotonic()
    for product in dict.fromkeys(products):
        active = registry.active.get(product)
        if active is None or active.served.is_loaded:
            continue
        if not memory.has_room_for(active.served):
            continue  # a smaller one may fit
        while memory.is_loading and time.monotonic() < begun + limit_s and not registry.wait_closing(_POLL_S):
            pass
        if registry.closing or time.monotonic() >= begun + limit_s:
            break
        if not memory.has_room_for(active.served):
            continue  # another one was loaded meanwhile
        failure = _wait(registry, memory.request(active.served))
        if failure is None:
            count += 1
            metrics.prefetched.inc()
            # The first ones are the most likely to be needed, so they leave last, and all of them before a bundle that
            # was loaded for an image.
            active.served.set_loaded_ahead(begun - count * _STEP_S)
        elif type(failure) is BundleStoreUnavailable:  # not damaged, which affects one bundle only
            break  # the others would wait for it, too, and would be recorded as broken
    log.info("bundles loaded ahead", count=count, seconds=round(time.monotonic() - begun, 2))


def _wait(registry: Registry, load: LoadResult) -> PlumblineError | None:
    """Return why a bundle could not be loaded; None if it was."""
    while not load.done() and not registry.closing:
        wait([load], _POLL_S)
    return load.result() if load.done() else ShuttingDown()
