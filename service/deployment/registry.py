"""The registry: which bundle and which recipe are in force for each product."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from service.deployment.bundle_memory import BundleMemory
from service.deployment.changes import ProductChanges
from service.deployment.errors import ProductNotReady
from service.deployment.failures import BrokenBundle, LoadFailures
from service.deployment.in_force import InForce
from service.deployment.known_products import KnownProducts
from service.deployment.lease import ActiveProduct, Shadow
from service.deployment.loading import ProductLoading
from service.deployment.memory_limits import KEEP_ALL, MemoryLimits
from service.deployment.preparation import BundlePreparation
from service.deployment.repository import BundleLoader
from service.deployment.retries import LoadRetries
from service.deployment.served import LOAD_WAIT_S, LoadResult, ServedBundle
from service.deployment.sources.folder import FolderSource
from service.deployment.sources.source import BundleSource
from service.inspection.runtime.freed_memory import return_freed_memory
from service.monitoring.metrics import Metrics
from service.recipes.recipe import Recipe
from service.store.records import RecipeRevision

ResultT = TypeVar("ResultT")


class Registry:
    """Loads bundles, leases them to inspections, and swaps them.

    The registry does not decide which bundle or recipe is in force: see `service.deployment.startup`, `rollout` and
    `recipes`. They pass callbacks that store a decision; the registry calls them under the product's lock, so that
    database and memory change together.

    Locks:
        Each product has a lock that is held during a change of its bundle or recipe, database writes included (see
        `ProductChanges`). Readers take no lock: the set of products and the mappings of what is in force are immutable
        and replaced as a whole.

    Args:
        models: The model repository, `<product>/<version>/`.
        loader: Loads bundles.
        metrics: Metrics to update when a bundle or a recipe is put in force.
        limits: Which bundles stay in memory; by default all.
        source: Where the bundles come from; None for the model repository.

    Attributes:
        failures: Bundles that could not be loaded.
        memory: Loads bundles on demand.
        source: Where the bundles come from.
        products: The products that exist, active or not.
        synchronise: Called with the product before each lease and each change of its recipe, to put changes by other
            processes in force. Does nothing by default.
    """

    def __init__(
        self,
        models: Path,
        loader: BundleLoader,
        metrics: Metrics,
        limits: MemoryLimits = KEEP_ALL,
        source: BundleSource | None = None,
    ) -> None:
        self.models = models
        self.source = source or FolderSource(models)
        self.loader = loader
        self.failures = LoadFailures()
        self._in_force = InForce(metrics)
        retries, report = LoadRetries(models), self._in_force.report_loaded
        self.memory = BundleMemory(loader, self.source, limits, self.failures, retries, metrics.memory, report)
        self._preparation = BundlePreparation(self.source, loader, self.memory, self.failures)
        self.synchronise: Callable[[str], None] = lambda _product: None
        self.products = KnownProducts(self.source)
        self.source.set_in_force(self._in_force.bundles)
        # Until `load` has processed a product, a change of its bundles is in progress.
        self._changes = ProductChanges(self.known)
        closing, is_quick = self._changes.closing, limits.limit_bytes is not None
        self._loading = ProductLoading(models, self.known, self.failures, closing, is_quick=is_quick)

    @property
    def active(self) -> Mapping[str, ActiveProduct]:
        """Active bundle and recipe by product."""
        return self._in_force.active

    @property
    def shadows(self) -> Mapping[str, Shadow]:
        """Shadow deployment by product."""
        return self._in_force.shadows

    @property
    def broken(self) -> tuple[BrokenBundle, ...]:
        """Bundles that should be active and could not be loaded."""
        return self.failures.broken

    @property
    def known(self) -> frozenset[str]:
        """All products of the repository, active or not."""
        return self.products.names

    @property
    def closing(self) -> bool:
        """Whether `close` was called."""
        return self._changes.closing.is_set()

    @property
    def loading(self) -> bool:
        """Whether the service waits for bundles: `load` runs, and nothing is served yet, or it began recently."""
        return self._loading.is_waited_for(has_active=bool(self.active))

    @property
    def delayed(self) -> frozenset[str]:
        """Products that `load` has not processed yet."""
        return self._loading.waiting

    def wait_closing(self, timeout_s: float) -> bool:
        """Wait until `close` is called or the timeout passes. Return whether it was called."""
        return self._changes.closing.wait(timeout_s)

    def load(
        self, load_product: Callable[[str], None], load_ahead: Callable[[], None] = lambda: None, ahead_s: float = 0.0
    ) -> None:
        """Load every product, several at a time, and bundles ahead then; see `ProductLoading.run`."""
        self._loading.run(load_product, self._changes.end, load_ahead, ahead_s)

    def get(self, product: str) -> ActiveProduct:
        """Return bundle and recipe in force, in memory or not. Use `lease` to run inspections with them.

        Raises:
            UnknownProduct: The repository has no such product.
            ProductNotReady: None of the product's bundles is active.
        """
        active = self.active.get(product)
        if active is not None:
            return active
        self.products.require(product)
        broken = [one for one in self.failures.broken if one.product == product]
        reasons = " ".join(one.reason for one in broken)
        if self.is_loading(product):
            raise ProductNotReady(product, reasons or "its bundle is still being loaded.")
        # Unless the reason ends by itself, somebody has to act: a client that tries again gets the same response.
        retry_after_s = max((one.retry_after_s for one in broken if one.retry_after_s is not None), default=None)
        raise ProductNotReady(product, reasons or "none of its bundles is activated yet.", retry_after_s)

    def is_loading(self, product: str) -> bool:
        """Return whether a change of the product's bundles is in progress."""
        return self._changes.is_reserved(product)

    def request(self, product: str) -> LoadResult | None:
        """Load the bundle in force without blocking. Return the result of the load; None if it is in memory.

        Raises:
            UnknownProduct, ProductNotReady: As for `get`.
        """
        served = self.get(product).served
        return None if served.is_loaded else self.memory.request(served)

    @contextmanager
    def lease(self, product: str, timeout_s: float = LOAD_WAIT_S, *, is_hit: bool = True) -> Iterator[ActiveProduct]:
        """Lease bundle and recipe in force for the block. They stay usable even if another bundle is activated.

        Args:
            product: The product.
            timeout_s: Longest wait for a bundle that is not in memory, in seconds.
            is_hit: False if the caller waited for the bundle already, so that the lease counts as a miss.

        Raises:
            UnknownProduct, ProductNotReady: As for `get`; also if the bundle is not in memory and cannot be loaded in
                time.
            ShuttingDown: The bundle is not in memory, and the registry is closed.
            StoreUnavailable: The database is shared and cannot be read.
        """
        self.synchronise(product)
        # What was retired or left the memory after `get` is looked up again, once it was loaded, and changes followed.
        give_up = time.monotonic() + timeout_s
        while not (active := self.get(product)).served.try_acquire():
            if not active.served.is_retired:
                is_hit = False
                active.served.wait_loaded(give_up - time.monotonic())
                self.synchronise(product)
        self.memory.count_lease(is_hit=is_hit)
        try:
            yield active
        finally:
            active.served.release()

    @contextmanager
    def lease_shadow(self, product: str, timeout_s: float = LOAD_WAIT_S) -> Iterator[Shadow | None]:
        """Lease the product's shadow deployment for the block; None if it has none.

        Raises:
            ProductNotReady: Its bundle is not in memory and cannot be loaded in time.
            ShuttingDown: The registry is closed.
        """
        shadow = self.shadows.get(product)
        if shadow is None or not shadow.served.acquire(timeout_s):
            yield None
            return
        try:
            yield shadow
        finally:
            shadow.served.release()

    def change_recipe(
        self, product: str, store: Callable[[ActiveProduct, Shadow | None], tuple[RecipeRevision, Recipe | None]]
    ) -> RecipeRevision:
        """Store a new recipe and put it in force, as one change.

        Args:
            product: The product.
            store: Stores the new revision, and returns it with the recipe of the shadow deployment, if there is one.
                If it raises, nothing changes.

        Raises:
            UnknownProduct, ProductNotReady: As for `get`.
            ShuttingDown: The registry is closed.
        """
        self.get(product)
        with self.exclusive(product):
            active, shadow = self.get(product), self.shadows.get(product)
            revision, shadow_recipe = store(active, shadow)
            self._in_force.set_active(product, replace(active, recipe=revision))
            if shadow is not None and shadow_recipe is not None:
                self._in_force.set_shadow(product, replace(shadow, recipe=shadow_recipe))
        return revision

    def changing(self, product: str) -> AbstractContextManager[None]:
        """Reserve the product for a change of its bundles for the block, which includes loading one.

        Raises:
            ChangeUnderWay: Another change of the product's bundles is in progress.
            ShuttingDown: The registry is closed.
        """
        return self._changes.reserve(product)

    def exclusive(self, product: str) -> AbstractContextManager[None]:
        """Hold the product's lock for the block: no bundle or recipe is put in force meanwhile.

        Raises:
            ShuttingDown: The registry is closed.
        """
        return self._changes.lock(product)

    def load_bundle(self, product: str, version: str, *, in_background: bool = False) -> ServedBundle:
        """Load and test a bundle without putting it in force; see `BundlePreparation.load`."""
        return self._preparation.load(product, version, in_background=in_background)

    def prepare_bundle(self, product: str, version: str, *, in_background: bool = False) -> ServedBundle:
        """Load a bundle to be put in force, or read its description only; see `BundlePreparation.prepare`."""
        replaced = (self.shadows if in_background else self.active).get(product)
        served = None if replaced is None else replaced.served
        return self._preparation.prepare(product, version, served, in_background=in_background)

    def swap(
        self,
        product: str,
        served: ServedBundle,
        store: Callable[[], tuple[RecipeRevision, ResultT]],
        *,
        keep_broken: bool = False,
    ) -> ResultT:
        """Put a bundle in force from the next image on, and unload the previous one after its last inspection.

        If the bundle is the product's shadow deployment, the shadow deployment ends.

        Args:
            product: The product, reserved by `changing`.
            served: The bundle. It is closed if it is not put in force.
            store: Stores the choice of the bundle, and returns the bundle's recipe and a result. If it raises, nothing
                changes.
            keep_broken: Keep the product's entries in `failures.broken`, because another bundle should be active.

        Returns:
            The result of `store`.

        Raises:
            ShuttingDown: The registry is closed.
        """
        try:
            with self.exclusive(product):
                recipe, result = store()
                old, shadow = self.active.get(product), self.shadows.get(product)
                self._in_force.set_active(product, ActiveProduct(served, recipe))
                if not keep_broken:
                    self.failures.clear_broken(product)
                if shadow is not None and shadow.bundle.digest == served.bundle.digest:
                    self._in_force.set_shadow(product, None)
                else:
                    shadow = None
        except BaseException:
            served.retire()
            raise
        self._retire(old)
        self._retire(shadow)
        return result

    def start_shadow(self, product: str, served: ServedBundle, store: Callable[[], tuple[Recipe, ResultT]]) -> ResultT:
        """Deploy a bundle as the product's shadow, and unload the previous one.

        Args:
            product: The product, reserved by `changing`.
            served: The bundle. It is closed if it is not deployed.
            store: Stores the choice of the bundle, and returns the bundle's recipe and a result. If it raises, nothing
                changes.

        Returns:
            The result of `store`.

        Raises:
            ShuttingDown: The registry is closed.
        """
        try:
            with self.exclusive(product):
                recipe, result = store()
                old = self.shadows.get(product)
                self._in_force.set_shadow(product, Shadow(served, recipe))
        except BaseException:
            served.retire()
            raise
        self._retire(old)
        return result

    def stop_shadow(self, product: str, store: Callable[[], ResultT]) -> ResultT:
        """End the product's shadow deployment, if there is one, and unload its bundle.

        Args:
            product: The product, reserved by `changing`.
            store: Stores the choice, and returns a result. If it raises, nothing changes.

        Returns:
            The result of `store`.

        Raises:
            ShuttingDown: The registry is closed.
        """
        with self.exclusive(product):
            result = store()
            old = self.shadows.get(product)
            self._in_force.set_shadow(product, None)
        self._retire(old)
        return result

    def refresh(self, product: str, version: str) -> None:
        """Register a bundle that was added to the repository or repaired."""
        self.products.add({product})
        self.failures.clear_refused(product, version)

    def close(self) -> None:
        """Refuse further changes, end the loading of bundles, finish all pending inspections, and close all inspectors.

        A change in progress completes first; its product is closed last.
        """
        locks = self._changes.close()
        self.loader.close()
        self.source.close()
        self.memory.close()
        for product, lock in locks:
            with lock:
                for deployed in (self.active.get(product), self.shadows.get(product)):
                    if deployed is not None:
                        deployed.served.close()

    def _retire(self, old: ActiveProduct | Shadow | None) -> None:
        """Unload a replaced bundle after its last inspection."""
        if old is not None:
            # Wait, so that the next change finds only bundles in memory that are in use.
            old.served.retire_and_wait(lambda: self.closing)
            return_freed_memory()
