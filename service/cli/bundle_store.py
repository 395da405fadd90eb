"""The bundle store for commands: open it for reading or for writing, and examine it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Engine

from service.cli.findings import Finding, Health
from service.cli.offline import open_bundles
from service.deployment.sources.importing import list_bundles
from service.deployment.sources.opening import open_source
from service.deployment.sources.source import BundleSource
from service.errors import PlumblineError
from service.settings import Settings
from service.store.bundles.objects import open_objects
from service.store.errors import BundleStoreUnavailable
from service.store.options import StoreOptions, bundle_store_options
from service.store.store import open_beside_service


@contextmanager
def open_for_writing(settings: Settings) -> Iterator[tuple[BundleSource, Engine]]:
    """Open the bundle store and the database, which is created if it does not exist.

    Raises:
        BundleStoreUnavailable, StoreUnavailable: One of them cannot be used.
        OSError: The folder of the cache cannot be created.
    """
    with open_beside_service(settings.database, settings.data, StoreOptions.of(settings)) as engine:
        source = open_source(settings, engine)
        try:
            yield source, engine
        finally:
            source.close()


def check_bundle_store(settings: Settings) -> Iterator[Finding]:
    """Examine the bundle store: whether it can be written, and what the database lists."""
    if not settings.bundle_store:
        return
    url = settings.bundle_store
    try:
        objects = open_objects(bundle_store_options(settings))
        try:
            objects.probe()
        finally:
            objects.close()
        yield Finding("bundle store", Health.OK, f"{url}: a small file was written and deleted")
    except BundleStoreUnavailable as error:
        remedy = error.remedy or "Check PLUMBLINE_BUNDLE_STORE, its credentials and the network."
        yield Finding("bundle store", Health.PROBLEM, f"{url}: {error.reason}", remedy)
    try:
        with open_bundles(settings) as source:
            products = source.products()
            listed = {product: source.versions(product) for product in products}
            removed = source.removed()  # they leave the cache when it is full
            cached = (key for key in list_bundles(settings.models) if key not in removed)
            others = [key for key in cached if key[1] not in listed.get(key[0], ())]
    except PlumblineError:
        return  # the check of the database reports it
    except OSError as error:
        remedy = "Set PLUMBLINE_MODELS to a folder that this user can write, which is the cache of the bundle store."
        yield Finding("bundles", Health.PROBLEM, f"{settings.models} cannot be used ({error.strerror})", remedy)
        return
    if others:
        text = f"{len(others)} bundles in {settings.models} are not in the bundle store, so they are not served"
        remedy = "Run plumbline bundle import-repository, or remove them."
        yield Finding("bundles", Health.WARNING, text, remedy)
    if products:
        yield Finding("bundles", Health.OK, f"in the bundle store: {len(products)} product(s)")
    else:
        remedy = "Upload a bundle, or run plumbline bundle import-repository DIR."
        yield Finding("bundles", Health.PROBLEM, "the bundle store holds no bundle", remedy)
