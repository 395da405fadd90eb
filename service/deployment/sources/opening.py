"""Choose where bundles come from by the settings."""

from __future__ import annotations

from prometheus_client import CollectorRegistry
from sqlalchemy import Engine

from service.deployment.sources.folder import FolderSource
from service.deployment.sources.source import BundleSource
from service.monitoring.bundle_store_metrics import BundleStoreMetrics
from service.settings import Settings


def open_source(settings: Settings, engine: Engine | None, metrics: BundleStoreMetrics | None = None) -> BundleSource:
    """Return the bundles that the settings name, without connecting to the bundle store.

    Args:
        settings: The settings.
        engine: The database; None if there is none, so that nothing can be in the bundle store.
        metrics: Counts downloads; None for a command.

    Raises:
        BundleStoreUnavailable: The package for the URL of the bundle store is not installed.
        OSError: The folder of the cache cannot be created.
    """
    if not settings.bundle_store or engine is None:
        return FolderSource(settings.models)
    # A single machine imports none of this.
    from service.deployment.sources.cache import CacheLimits
    from service.deployment.sources.stored import StoredSource
    from service.store.bundles.objects import open_objects
    from service.store.bundles.table import BundleTable
    from service.store.options import bundle_store_options

    return StoredSource(
        settings.models,
        BundleTable(engine),
        open_objects(bundle_store_options(settings)),
        CacheLimits(settings.bundle_cache_bytes),
        metrics or BundleStoreMetrics(CollectorRegistry()),
    )
