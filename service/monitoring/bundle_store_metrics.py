"""Metrics of the bundle store and of its local cache."""

from __future__ import annotations

import math
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

DOWNLOAD_BUCKETS_S = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0)
OUTCOMES = ("done", "failed", "damaged")


class BundleStoreMetrics:
    """The metrics of the bundle store. Without one, they stay at 0.

    Args:
        registry: The registry that `/metrics` exposes.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.downloads = Counter(
            "inspection_bundle_downloads_total",
            "Downloads of bundles from the bundle store, by outcome: done, failed, or damaged (a file in the store is "
            "not what the manifest lists).",
            ["outcome"],
            registry=registry,
        )
        self.download_bytes = Counter(
            "inspection_bundle_download_bytes_total", "Bytes of downloaded bundles.", registry=registry
        )
        self.download_seconds = Histogram(
            "inspection_bundle_download_seconds",
            "Time to download a bundle, or its description, from the bundle store.",
            buckets=DOWNLOAD_BUCKETS_S,
            registry=registry,
        )
        self.cache_bytes = Gauge(
            "inspection_bundle_cache_bytes",
            "Bytes of bundles in the local cache of the bundle store; 0 without a bundle store.",
            registry=registry,
        )
        self.cache_limit = Gauge(
            "inspection_bundle_cache_limit_bytes",
            "PLUMBLINE_BUNDLE_CACHE_BYTES; infinity without a limit.",
            registry=registry,
        )
        self.evictions = Counter(
            "inspection_bundle_cache_evictions_total",
            "Bundles that were removed from the local cache because others needed the space.",
            registry=registry,
        )
        self.prefetched = Counter(
            "inspection_bundles_prefetched_total",
            "Bundles that were loaded after the start because their products were inspected lately.",
            registry=registry,
        )
        self.cache_limit.set(math.inf)
        for outcome in OUTCOMES:
            self.downloads.labels(outcome)

    def set_cache(self, used_bytes: Callable[[], float], limit: int | None) -> None:
        """Set what the gauges expose.

        Args:
            used_bytes: Returns the size of the cache.
            limit: Its limit in bytes; None for none.
        """
        self.cache_bytes.set_function(used_bytes)
        self.cache_limit.set(math.inf if limit is None else limit)

    def count_download(self, size: int, seconds: float) -> None:
        """Count a completed download.

        Args:
            size: Bytes.
            seconds: Its duration.
        """
        self.downloads.labels("done").inc()
        self.download_bytes.inc(size)
        self.download_seconds.observe(seconds)
