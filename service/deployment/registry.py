"""The registry: which bundle and which recipe are in force for each product."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Set
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar

import structlog

from service.deployment.changes import ProductChanges
from service.deployment.errors import ProductNotReady, UnknownProduct
from service.deployment.failures import BrokenBundle, LoadFailures
from service.deployment.lease import ActiveProduct, LeaseCount, Shadow
from service.deployment.loading import LOADING_GRACE_S, ProductLoading, known_failure
from service.deployment.memory import return_freed_memory
from service.deployment.repository import BundleLoader, product_folders
from service.errors import ShuttingDown
from service.inspection.inspector import Inspector
from service.monitoring.metrics import Metrics
from service.recipes.recipe import Recipe
from service.store.records import RecipeRevision

log = structlog.get_logger(__name__)
DRAIN_TIMEOUT_S = 60.0
_POLL_S = 0.1
ResultT = TypeVar("ResultT")


class Registry:
    """Loads bundles, leases them to inspections, and swaps them.

    The registry does not decide which bundle or recipe is in force: see `service.deployment.startup`, `rollout` and
    `recipes`. They pass callbacks that store a decision; the registry calls them under the product's lock, so that
    database and memory change together.

    Locks:
        Each product has a lock that is held during a change of its bundle or recipe, database writes included (see
        `ProductChanges`). `_state_lock` protects the mappings; it is only held to replace them, never during I/O.
        Readers take no lock: each mapping is immutable and replaced as a whole.

    Args:
        models: The model repository, `<product>/<version>/`.
        loader: Loads bundles.
        metrics: Metrics to update when a bundle or a recipe is put in force.

    Attributes:
        failures: Bundles that could not be loaded.
        synchronise: Called with the product before each lease and each change of its recipe, to put changes by other
            processes in force. Does nothing by default.
    """

    def __init__(self, models: Path, loader: BundleLoader, metrics: Metrics) -> None:
        self.models = models
        self.loader = loader
        self.failures = LoadFailures()
        self.synchronise: Callable[[str], None] = lambda _product: None
        self._metrics = metrics
        self._active: Mapping[str, ActiveProduct] = MappingProxyType({})
        self._shadows: Mapping[str, Shadow] = MappingProxyType({})
        self._known = frozenset(product_folders(models))
        self._state_lock = threading.Lock()
        # Until `load` has processed a product, a change of its bundles is in progress.
        self._changes = ProductChanges(self._known)
        self._loading = ProductLoading(models, self._known, self.failures, self._changes.closing)

    @property
    def active(self) -> Mapping[str, ActiveProduct]:
        """Active bundle and recipe by product."""
        return self._active

    @property
    def shadows(self) -> Mapping[str, Shadow]:
        """Shadow deployment by product."""
        return self._shadows

    @property
    def broken(self) -> tuple[BrokenBundle, ...]:
        """Bundles that should be active and could not be loaded."""
        return self.failures.broken

    @property
    def known(self) -> frozenset[str]:
        """All products of the repository, active or not."""
        return self._known

    @property
    def closing(self) -> bool:
        """Whether `close` was called."""
        return self._changes.closing.is_set()

    @property
    def loading(self) -> bool:
        """Whether the service waits for bundles: `load` runs, and nothing is served yet or it began recently."""
        if self._loading.finished:
            return False
        return not self._active or self._loading.duration_s < LOADING_GRACE_S

    @property
    def delayed(self) -> frozenset[str]:
        """Products that `load` has not processed yet."""
        return self._loading.waiting

    def wait_closing(self, timeout_s: float) -> bool:
        """Wait until `close` is called or the timeout passes. Return whether it was called."""
        return self._changes.closing.wait(timeout_s)

    def load(self, load_product: Callable[[str], None]) -> None:
        """Load every product, several at a time. A product that cannot be loaded does not affect the others.

        Args:
            load_product: Loads one product with `load_bundle` and puts it in force with `swap`. It is called from
                several threads. Whatever it raises is recorded in `failures.broken`.
        """
        self._loading.run(load_product, self._changes.end)

    def require_known(self, product: str) -> None:
        """Raise `UnknownProduct` if the repository has no such product."""
        if product not in self._known:
            raise UnknownProduct(product, self._known, self.models)

    def get(self, product: str) -> ActiveProduct:
        """Return bundle and recipe in force. Use `lease` to run inspections with them.

        Raises:
            UnknownProduct: The repository has no such product.
            ProductNotReady: None of the product's bundles is active.
        """
        active = self._active.get(product)
        if active is not None:
            return active
        self.require_known(product)
        reasons = [broken.reason for broken in self.failures.broken if broken.product == product]
        if self.is_loading(product):
            raise ProductNotReady(product, " ".join(reasons) or "its bundle is still being loaded.")
        # Somebody has to act: a client that tries again gets the same response.
        raise ProductNotReady(product, " ".join(reasons) or "none of its bundles is activated yet.", None)

    def is_loading(self, product: str) -> bool:
        """Return whether a change of the product's bundles is in progress."""
        return self._changes.is_reserved(product)

    @contextmanager
    def lease(self, product: str) -> Iterator[ActiveProduct]:
        """Lease bundle and recipe in force for the block. They stay usable even if another bundle is activated.

        Raises:
            UnknownProduct, ProductNotReady: As for `get`.
            StoreUnavailable: The database is shared and cannot be read.
        """
        self.synchronise(product)
        # If the bundle was replaced and retired between `get` and `acquire`, look up its successor.
        while not (active := self.get(product)).leases.acquire():
            pass
        try:
            yield active
        finally:
            active.leases.release()

    @contextmanager
    def lease_shadow(self, product: str) -> Iterator[Shadow | None]:
        """Lease the product's shadow deployment for the block; None if it has none."""
        shadow = self._shadows.get(product)
        if shadow is None or not shadow.leases.acquire():
            yield None
            return
        try:
            yield shadow
        finally:
            shadow.leases.release()

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
            active, shadow = self.get(product), self._shadows.get(product)
            revision, shadow_recipe = store(active, shadow)
            self._set_active(product, replace(active, recipe=revision))
            if shadow is not None and shadow_recipe is not None:
                self._set_shadow(product, replace(shadow, recipe=shadow_recipe))
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

    def load_bundle(self, product: str, version: str, *, in_background: bool = False) -> Inspector:
        """Load and test a bundle without putting it in force.

        Args:
            product: The product.
            version: The bundle's version.
            in_background: Run the bundle's threads at lower priority than those of other bundles.

        Raises:
            BundleInvalid, ProviderUnavailable: It cannot be served. The failure is added to `failures.refused`.
            ShuttingDown: The registry is closed.
        """
        path = self.models / product / version
        try:
            inspector = self.loader.load(path, product, in_background=in_background)
        except ShuttingDown:
            raise
        except Exception as error:  # noqa: BLE001 - raised as a failure of this bundle
            failure = known_failure(path, error)
            self.failures.add_refused(BrokenBundle(product, version, failure.slug, failure.detail))
            raise failure from (None if failure is error else error)
        self.failures.clear_refused(product, version)
        return inspector

    def swap(
        self,
        product: str,
        inspector: Inspector,
        store: Callable[[], tuple[RecipeRevision, ResultT]],
        *,
        keep_broken: bool = False,
    ) -> ResultT:
        """Put a loaded bundle in force from the next image on, and unload the previous one after its last inspection.

        If the bundle is the product's shadow deployment, the shadow deployment ends.

        Args:
            product: The product, reserved by `changing`.
            inspector: The loaded bundle. It is closed if it is not put in force.
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
                old, shadow = self._active.get(product), self._shadows.get(product)
                self._set_active(product, ActiveProduct(inspector, recipe, LeaseCount(inspector)))
                if not keep_broken:
                    self.failures.clear_broken(product)
                if shadow is not None and shadow.bundle.digest == inspector.bundle.digest:
                    self._set_shadow(product, None)
                else:
                    shadow = None
        except BaseException:
            inspector.close()
            raise
        self._retire(old)
        self._retire(shadow)
        return result

    def start_shadow(self, product: str, inspector: Inspector, store: Callable[[], tuple[Recipe, ResultT]]) -> ResultT:
        """Deploy a loaded bundle as the product's shadow, and unload the previous one.

        Args:
            product: The product, reserved by `changing`.
            inspector: The loaded bundle. It is closed if it is not deployed.
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
                old = self._shadows.get(product)
                self._set_shadow(product, Shadow(inspector, recipe, LeaseCount(inspector)))
        except BaseException:
            inspector.close()
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
            old = self._shadows.get(product)
            self._set_shadow(product, None)
        self._retire(old)
        return result

    def refresh(self, product: str, version: str) -> None:
        """Register a bundle that was added to the repository or repaired."""
        self._add_known({product})
        self.failures.clear_refused(product, version)

    def discover(self) -> None:
        """Register products that another process added to the repository.

        Raises:
            OSError: The repository cannot be read.
        """
        found = set(product_folders(self.models, besides=self._known))
        if found:
            self._add_known(found)

    def close(self) -> None:
        """Refuse further changes, end the loading of bundles, finish all pending inspections, and close all inspectors.

        A change in progress completes first; its product is closed last.
        """
        locks = self._changes.close()
        self.loader.close()
        for product, lock in locks:
            with lock:
                for deployed in (self._active.get(product), self._shadows.get(product)):
                    if deployed is not None:
                        deployed.inspector.close(drain=True)

    def _add_known(self, products: Set[str]) -> None:
        with self._state_lock:
            self._known |= products

    def _set_active(self, product: str, active: ActiveProduct) -> None:
        # The metrics first: inspections are counted as soon as the product can be inspected.
        self._metrics.set_product(active.bundle, active.inspector.provider)
        self._metrics.bundles.concurrent_runs.labels(product).set(active.inspector.batcher.concurrency)
        self._metrics.bundles.set_recipe(product, active.recipe.recipe, active.recipe.revision)
        with self._state_lock:
            self._active = MappingProxyType({**self._active, product: active})

    def _set_shadow(self, product: str, shadow: Shadow | None) -> None:
        self._metrics.bundles.set_shadow(product, None if shadow is None else shadow.bundle)
        with self._state_lock:
            others = {name: other for name, other in self._shadows.items() if name != product}
            self._shadows = MappingProxyType(others if shadow is None else {**others, product: shadow})

    def _retire(self, old: ActiveProduct | Shadow | None) -> None:
        """Unload a replaced bundle after its last inspection."""
        if old is None:
            return
        old.leases.retire()
        # Wait, so that the next change finds only bundles in memory that are in use. An inspection ends at its deadline
        # at the latest. One that takes longer is not waited for, and closes its bundle itself when it ends.
        deadline = time.monotonic() + DRAIN_TIMEOUT_S
        while not old.leases.ended.wait(_POLL_S) and not self.closing:
            if time.monotonic() > deadline:
                log.error("bundle still in use", version=old.bundle.version, timeout_s=DRAIN_TIMEOUT_S)
                break
        return_freed_memory()
