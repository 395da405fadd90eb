"""Bundles in the bundle store, which all replicas share. Those that this process needs are in a local cache."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Set
from pathlib import Path

import structlog

from service.bundle.bundle import Bundle
from service.bundle.errors import BundleIntegrity
from service.bundle.manifest import Digest, Manifest
from service.deployment.sources.cache import BundleCache, CacheLimits
from service.deployment.sources.damaged import DamagedBundles
from service.deployment.sources.source import BundleKey, BundleSource, ResultT
from service.errors import PlumblineError
from service.monitoring.bundle_store_metrics import BundleStoreMetrics
from service.store.bundles.errors import BundleDamaged
from service.store.bundles.objects import BundleObjects
from service.store.bundles.table import BundleTable, Status, StoredBundle
from service.store.errors import StoreUnavailable

log = structlog.get_logger(__name__)


class StoredSource(BundleSource):
    """The bundles of the bundle store. The table in the database lists them; the local folder is a cache.

    Args:
        root: The local cache.
        table: The list of bundles.
        objects: Their files.
        limits: When bundles leave the cache.
        metrics: Counts downloads and removals.
    """

    is_shared = True

    def __init__(
        self,
        root: Path,
        table: BundleTable,
        objects: BundleObjects,
        limits: CacheLimits,
        metrics: BundleStoreMetrics,
    ) -> None:
        super().__init__(root)
        self._table = table
        self._objects = objects
        self._damaged = DamagedBundles(objects)
        self._in_force: Callable[[], Mapping[BundleKey, bool]] = dict
        self._cache = BundleCache(root, objects, limits, metrics, self._removable)
        self._cache.set_loaded(lambda: {key for key, is_loaded in self._in_force().items() if is_loaded})

    def products(self, besides: Set[str] = frozenset()) -> set[str]:
        """Return the names of the products."""
        return self._table.products() - besides

    @property
    def empty_reason(self) -> str:
        """Why there is no product, as a sentence."""
        return (
            "The bundle store held no bundle when the service started. Upload and activate one; if some were imported "
            "since, activate one of each product, or restart the service."
        )

    @property
    def empty_remedy(self) -> str:
        """What to do if there is no product, as a sentence."""
        return "Upload a bundle, or import a model repository with plumbline bundle import-repository."

    def versions(self, product: str) -> list[str]:
        """Return the versions of a product's bundles, newest first."""
        return self._table.versions(product)

    def only_versions(self) -> Mapping[str, str]:
        """Return the version of the bundle of each product that has exactly one."""
        return self._table.only_versions()

    def manifest(self, product: str, version: str) -> tuple[Manifest, Digest]:
        """Return the manifest of a bundle, as it is in the table, and its digest."""
        stored = self._find(product, version)
        if stored.status == "damaged":
            raise BundleIntegrity(
                self.root / product / version,
                "what the bundle store contains of it is damaged.",
                "Upload the bundle again, which repairs the bundle store.",
            )
        return stored.manifest, stored.digest

    def recorded(self, product: str, version: str) -> tuple[Manifest, Digest]:
        """Return the manifest of a bundle, as it is in the table, and its digest, whatever its state."""
        stored = self._find(product, version)
        return stored.manifest, stored.digest

    def is_local(self, bundle: Bundle) -> bool:
        """Return whether all files of a bundle are on the local disk."""
        key = bundle.manifest.product, bundle.version
        return not self._cache.missing(key, bundle.manifest, with_graph=True)

    def fetch(self, product: str, version: str) -> None:
        """Download a bundle unless it is on the local disk."""
        with self._cache.held((product, version)):
            self._complete((product, version), with_graph=True)

    def use(self, product: str, version: str, work: Callable[[Path], ResultT], *, with_graph: bool = True) -> ResultT:
        """Run a function with the folder of a bundle. Damaged files on the local disk are downloaded again."""
        key = product, version
        with self._cache.held(key) as path:
            self._complete(key, with_graph=with_graph)
            try:
                return work(path)
            except BundleIntegrity as error:
                if (stored := self._table.get(product, version)) is None:
                    raise
                log.warning("damaged bundle is downloaded again", product=product, version=version, reason=error.detail)
                self._cache.remove_damaged(key, stored.manifest.files)
            self._complete(key, with_graph=with_graph)
            return work(path)

    def store(self, bundle: Bundle) -> Callable[[], bool]:
        """Store the files of a bundle, and return a function that adds it to the table."""
        removals = self._table.count_removals(bundle.digest)
        self._objects.store(bundle)

        def register(manifest_json: str = self._table.text_of(bundle)) -> bool:
            is_new = self._table.add(bundle, manifest_json, removals)
            self._cache.trim(is_changed=True)
            return is_new

        return register

    def removed(self) -> set[BundleKey]:
        """Return the bundles that were removed from the bundle store and not stored again."""
        return self._table.removed_keys()

    def set_in_force(self, in_force: Callable[[], Mapping[BundleKey, bool]]) -> None:
        """Set what returns the bundles that are in force in this process, and whether each is in memory."""
        self._in_force = in_force

    def close(self) -> None:
        """Stop downloads, and close the connections."""
        self._cache.close()

    def _find(self, product: str, version: str) -> StoredBundle:
        stored = self._table.get(product, version)
        if stored is None:
            raise self._unknown(product, version, self._table.versions(product))
        return stored

    def _unknown(self, product: str, version: str, known: list[str]) -> PlumblineError:
        return self._table.removal_of(product, version) or super()._unknown(product, version, known)

    def _complete(self, key: BundleKey, *, with_graph: bool) -> None:
        found: list[StoredBundle] = []

        def find() -> StoredBundle:
            stored = self._find(*key)
            if stored.status == "damaged":
                with self._cache.requesting():
                    self._damaged.require_changed(stored.digest)
            found.append(stored)
            return stored

        try:
            self._cache.complete(key, find, with_graph=with_graph)
        except BundleDamaged as error:
            # Without `found`, nothing was downloaded.
            if found and self._damaged.confirm(error, found[0].manifest.files.get(error.file)):
                self._set_status(found[0], "damaged")
            with contextlib.suppress(StoreUnavailable):
                self._find(*key)  # which states that it was removed while it was downloaded
            raise
        if found and found[0].status == "damaged" and with_graph:
            self._set_status(found[0], "available")

    def _set_status(self, stored: StoredBundle, status: Status) -> None:
        if stored.status != status:
            with contextlib.suppress(StoreUnavailable):  # it is only shown
                self._table.set_status(stored.digest, status)

    def _removable(self) -> dict[BundleKey, bool]:
        """Return all bundles that are or were in the table, and whether each is in force here or chosen in any."""
        in_force = self._table.chosen() | self._in_force().keys()
        keys = self._table.keys() | self._table.removed_keys()
        return {key: key in in_force for key in keys}
