"""Startup: load the bundles that were in force when the service stopped."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import structlog
from sqlalchemy import Engine

from service.bundle.bundle import Bundle
from service.deployment.errors import ChangeUnderWay
from service.deployment.failures import BrokenBundle
from service.deployment.loading import known_failure
from service.deployment.recipes import recipe_in_force, shadow_recipe
from service.deployment.registry import Registry
from service.deployment.stored_state import StoredState
from service.errors import PlumblineError, ShuttingDown
from service.inspection.errors import ProviderUnavailable
from service.store.bundles.errors import BundleDamaged
from service.store.choices import BundleChoices
from service.store.errors import StoreUnavailable
from service.store.recipes import current_recipe
from service.store.records import RecipeRevision

log = structlog.get_logger(__name__)
RETRY_S = 1.0
MAX_RETRY_S = 60.0
_POLL_S = 0.05
ResultT = TypeVar("ResultT")


class Startup:
    """Loads the active bundle and the shadow deployment of every product.

    Args:
        registry: The registry.
        engine: The database.
        is_followed: Whether a `RevisionFollower` loads the products that have a recipe, when they can be loaded.
    """

    def __init__(self, registry: Registry, engine: Engine, *, is_followed: bool = False) -> None:
        self._registry = registry
        self._engine = engine
        self._is_followed = is_followed
        self._choices = BundleChoices(engine)
        self._first = threading.Lock()
        self._has_loaded = False
        self._shadows: Mapping[str, str] | None = None
        """Versions of the shadow deployments by product, while `run` loads the products."""
        self._unfetched: set[str] = set()
        """Products whose bundles could not be fetched or opened for a while, and that `fetch_again` loads."""
        self._stored = StoredState()
        """What is in force in the database, while `run` loads the products."""

    def run(self, load_ahead: Callable[[], None] = lambda: None, ahead_s: float = 0.0) -> None:
        """Load all products. Bundles that cannot be loaded are recorded in the registry's `failures`.

        Args:
            load_ahead: Loads bundles ahead, when all products are in force.
            ahead_s: Seconds of it for which the service is not ready.
        """
        if not self._registry.known:
            log.error(
                "no product to serve",
                reason=self._registry.source.empty_reason,
                remedy=self._registry.source.empty_remedy,
            )
        with suppress(StoreUnavailable):  # each product waits for the database
            self._shadows = self._choices.versions("shadow")
            if self._is_followed:  # changes that other processes make meanwhile are followed before each inspection
                self._stored = StoredState.read(self._engine, self._registry.source)

        def load_rest() -> None:
            self._shadows, self._stored = None, StoredState()
            load_ahead()

        self._registry.load(self._load_product, load_rest, ahead_s)

    @contextmanager
    def fetching_again(self) -> Iterator[None]:
        """Run `fetch_again` on a thread of its own beside the block, and wait for it after the block."""
        thread = threading.Thread(target=self.fetch_again, name="bundle-retries", daemon=True)
        thread.start()
        yield
        thread.join()

    def fetch_again(self, retry_s: float = RETRY_S) -> None:
        """Load the products that were not available for a while, until all are loaded or the registry is closed.

        Args:
            retry_s: Seconds before the first attempt. The pause doubles with each attempt, up to `MAX_RETRY_S`.
        """
        while self._unfetched and not self._registry.wait_closing(retry_s):
            for product in sorted(self._unfetched):
                if self._registry.closing:
                    return
                self._fetch_again(product)
            retry_s = min(MAX_RETRY_S, 2 * retry_s)

    def _fetch_again(self, product: str) -> None:
        try:
            with self._registry.changing(product):
                self._unfetched.discard(product)
                if product not in self._registry.active:
                    self._load_product(product)
                elif product not in self._registry.shadows:
                    self._load_shadow(product)
        except ChangeUnderWay:
            self._unfetched.add(product)
        except ShuttingDown:
            return
        except Exception as error:  # noqa: BLE001 - one product must not affect the others
            failure = known_failure(self._registry.models / product, error)
            log.error("product not served", product=product, reason=failure.detail)
        if product in self._registry.active and product not in self._unfetched:
            # What else is broken stays: a bundle that serves instead of the chosen one does not repair that one.
            self._registry.failures.clear_transient(product)

    def _load_product(self, product: str) -> None:
        self._load_active(product)
        self._load_shadow(product)
        self._load_first(product)

    def _load_first(self, product: str) -> None:
        """Load the first of the products that are loaded on demand, if none stays in memory.

        Only a bundle that is loaded shows whether the execution provider works, which readiness depends on.
        """
        limits = self._registry.memory.limits
        if limits.limit_bytes is None or limits.pinned & self._registry.known or product not in self._registry.active:
            return
        if self._has_loaded or not self._first.acquire(blocking=False):
            return
        try:
            load = self._registry.request(product)
            while load is not None and not load.done() and not self._registry.wait_closing(_POLL_S):
                pass
            failure = load.result() if load is not None and load.done() else None
            self._has_loaded = failure is None or failure.slug == ProviderUnavailable.slug
        finally:
            self._first.release()

    def _load_active(self, product: str) -> None:
        for path in self._candidates(product):
            try:
                served = self._wait_for_store(
                    product,
                    lambda: self._registry.prepare_bundle(product, path.name),  # noqa: B023 - it runs now
                )
            except ShuttingDown:
                raise
            except PlumblineError as error:
                if error.retry_after_s is not None:
                    # Nothing is known about the bundle, because the bundle store or what runs graphs is not available.
                    # Another bundle would be a silent roll-back, also of the other replicas.
                    broken = _broken(product, path, error)
                    if not self._is_loaded_later(product, error):
                        broken = replace(broken, retry_after_s=None)
                    self._registry.failures.replace_broken(broken)
                    return
                self._add_broken(product, path, error)
                if isinstance(error, ProviderUnavailable):
                    return  # a property of this machine, so an older bundle would fail, too
                continue
            try:
                recipe = self._recipe_of(served.bundle)
            except ShuttingDown:
                served.retire()
                raise
            except Exception as error:  # noqa: BLE001 - recorded; an older bundle would have the same recipe
                served.retire()
                self._add_broken(product, path, error)
                return
            self._registry.swap(product, served, lambda: (recipe, None), keep_broken=True)  # noqa: B023
            log.info(
                "product ready",
                product=product,
                version=served.bundle.version,
                provider=served.provider,
                recipe_revision=recipe.revision,
                on_demand=not served.is_pinned,
            )
            return

    def _add_broken(self, product: str, path: Path, error: Exception) -> None:
        broken = _broken(product, path, error)
        self._registry.failures.add_broken(broken)
        log.error("bundle not served", product=product, version=path.name, reason=broken.reason)

    def _recipe_of(self, bundle: Bundle) -> RecipeRevision:
        product = bundle.manifest.product
        stored = self._stored.recipe(product, bundle.digest)
        return stored or self._wait_for_store(product, lambda: recipe_in_force(self._engine, bundle))

    def _candidates(self, product: str) -> Iterator[Path]:
        """Yield the folders of the bundles that may become active, the preferred one first.

        The others are read from the database only if they are needed.
        """
        first = self._stored.version(product)
        if first is not None:
            yield self._registry.models / product / first
        for path in self._wait_for_store(product, lambda: self._stored_candidates(product)):
            if path.name != first:
                yield path

    def _stored_candidates(self, product: str) -> Sequence[Path]:
        """Return the folders of the bundles that may become active, the preferred one first.

        These are the chosen bundle and those that a roll-back returns to. If there was never a choice, the product's
        folder was filled by hand, and they are all its bundles, in the order of `BundleSource.defaults`. The first
        upload to a product stores a choice, so an uploaded bundle is never active by default.
        """
        lineage = self._choices.lineage(product)
        if not lineage:
            return self._defaults(product)
        versions = dict.fromkeys(choice.version for choice in lineage)
        return [self._registry.models / product / version for version in versions if version]

    def _defaults(self, product: str) -> list[Path]:
        source = self._registry.source
        found = source.defaults(product)
        newest = source.versions(product)[0] if len(found) > 1 else None
        if newest is not None and newest != found[0]:
            log.info(
                "converted bundle not active by default",
                product=product,
                version=newest,
                remedy="To serve it, test it in shadow and activate it.",
            )
        return [self._registry.models / product / version for version in found]

    def _load_shadow(self, product: str) -> None:
        """Load the shadow deployment. If it fails, the product is served without it."""
        version = self._wait_for_store(product, lambda: self._shadow_version(product))
        if version is None or product not in self._registry.active:
            return
        try:
            served = self._registry.prepare_bundle(product, version, in_background=True)
            self._registry.start_shadow(product, served, lambda: (shadow_recipe(self._engine, served.bundle), None))
        except ShuttingDown:
            raise
        except Exception as error:  # noqa: BLE001 - the product is served without its shadow deployment
            if isinstance(error, PlumblineError) and error.retry_after_s is not None:
                self._is_loaded_later(product, error)
            failure = known_failure(self._registry.models / product / version, error)
            log.error("shadow not loaded", product=product, version=version, reason=failure.detail)

    def _shadow_version(self, product: str) -> str | None:
        """Return the version of a product's shadow deployment. One query is enough for all products of `run`."""
        if self._shadows is None:
            return self._choices.versions("shadow").get(product)
        return self._shadows.get(product)

    def _is_loaded_later(self, product: str, error: PlumblineError) -> bool:
        """Have a product loaded later whose bundle could not be fetched or opened. Return whether it will be.

        The follower does so if the product has a recipe. Otherwise, `fetch_again` does, unless the bundle is damaged:
        somebody has to repair it.
        """
        if self._is_followed and self._wait_for_store(product, lambda: current_recipe(self._engine, product)):
            return True
        if isinstance(error, BundleDamaged):
            return False
        self._unfetched.add(product)
        return True

    def _wait_for_store(self, product: str, query: Callable[[], ResultT]) -> ResultT:
        """Run a query, and repeat it until the database is available.

        Without the database the chosen bundle is not known, and loading another one would be a silent roll-back.

        Raises:
            ShuttingDown: The registry was closed.
        """
        while not self._registry.closing:
            try:
                return query()
            except StoreUnavailable as error:
                log.warning("database not available, trying again", product=product, reason=error.detail)
                self._registry.wait_closing(RETRY_S)
        raise ShuttingDown()


def _broken(product: str, path: Path, error: Exception) -> BrokenBundle:
    failure = known_failure(path, error)
    return BrokenBundle(product, path.name, failure.slug, failure.detail, failure.retry_after_s)
