"""Metrics of the bundles in memory."""

from __future__ import annotations

import math
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

LOAD_BUCKETS_S = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)


class MemoryMetrics:
    """The metrics of the bundles in memory. They have no label for the product, of which there may be thousands.

    Args:
        registry: The registry that `/metrics` exposes.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.leases = Counter(
            "inspection_bundle_leases_total",
            "Uses of a bundle, by whether it was in memory (hit) or had to be loaded first (miss).",
            ["result"],
            registry=registry,
        )
        self.evictions = Counter(
            "inspection_bundle_evictions_total",
            "Bundles that were unloaded because other products needed the memory.",
            registry=registry,
        )
        self.load_failures = Counter(
            "inspection_bundle_load_failures_total",
            "Bundles that could not be loaded on demand. Their products are not served.",
            registry=registry,
        )
        self.load_seconds = Histogram(
            "inspection_bundle_load_seconds",
            "Time to load a bundle on demand, from the start of the load until it can be used.",
            buckets=LOAD_BUCKETS_S,
            registry=registry,
        )
        self.loaded = Gauge(
            "inspection_bundles_loaded", "Bundles that are in memory or being loaded.", registry=registry
        )
        self.memory = Gauge(
            "inspection_bundle_memory_bytes",
            "Estimated memory of the bundles that are in memory or being loaded.",
            registry=registry,
        )
        self.memory_limit = Gauge(
            "inspection_bundle_memory_limit_bytes",
            "PLUMBLINE_BUNDLE_MEMORY_BYTES; infinity without a limit.",
            registry=registry,
        )
        for result in ("hit", "miss"):
            self.leases.labels(result)

    def set_memory(self, loaded: Callable[[], float], used_bytes: Callable[[], float], limit: int | None) -> None:
        """Set what the gauges expose.

        Args:
            loaded: Returns the number of bundles in memory.
            used_bytes: Returns their memory.
            limit: The limit in bytes; None for none.
        """
        self.loaded.set_function(loaded)
        self.memory.set_function(used_bytes)
        self.memory_limit.set(math.inf if limit is None else limit)

    def count_lease(self, *, is_hit: bool) -> None:
        """Count a use of a bundle."""
        self.leases.labels("hit" if is_hit else "miss").inc()
