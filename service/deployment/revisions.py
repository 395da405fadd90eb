"""Changes made by other processes that share the database: they are noticed, and put in force here.

The number of the newest recipe revision of a product is the truth. It identifies the recipe and the bundle that it
belongs to, because every activation of another bundle appends a revision in the same transaction. It is read before
each inspection, in one query for all inspections that wait for it, and about every second for products that receive no
images or are not active here. The same query reads the number of the newest entry of the audit log, which shows that
keys or accounts were changed. Notifications of the database are not needed. A process that is the only user of its
database (SQLite) needs none of this.

A bundle that cannot be loaded here is loaded again after a delay that grows, and when its files change: see
`LoadRetries`. It does not affect other products.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from functools import partial
from typing import Generic, TypeVar

import structlog
from sqlalchemy import Engine

from service.deployment.errors import ChangeUnderWay, ProductNotReady
from service.deployment.failures import BrokenBundle
from service.deployment.lease import ActiveProduct, Shadow
from service.deployment.recipes import shadow_recipe
from service.deployment.registry import Registry
from service.deployment.retries import LoadRetries
from service.errors import PlumblineError, ShuttingDown
from service.recipes.recipe import Recipe
from service.store.choices import BundleChoices
from service.store.errors import StoreUnavailable
from service.store.recipes import current_recipe
from service.store.records import RecipeRevision, Role
from service.store.revisions import Revisions, read_revisions

log = structlog.get_logger(__name__)
POLL_S = 1.0
# Refused inspections request a poll; they must not make the thread poll without a pause.
_MIN_PAUSE_S = 0.1
_STOP_S = 5.0
ResultT = TypeVar("ResultT")


class SharedQuery(Generic[ResultT]):
    """A query whose result is shared by all callers that arrived before it began, failures of the store included.

    A caller never receives a result that is older than its call. A server that cannot be reached is waited for once,
    not once per caller.

    Args:
        query: Runs the query for the products that are asked for.
    """

    def __init__(self, query: Callable[[frozenset[str]], ResultT]) -> None:
        self._query = query
        self._lock = threading.Lock()
        # Guards the next two, for a moment only: who arrives before a query begins is among those it is run for.
        self._arrivals = threading.Lock()
        self._begun = 0
        self._wanted: set[str] = set()
        self._result: tuple[int, ResultT | StoreUnavailable] | None = None

    def __call__(self, product: str) -> ResultT:
        """Return a result for a product that is not older than this call.

        Args:
            product: Name of the product.

        Raises:
            StoreUnavailable: The database cannot be read.
        """
        with self._arrivals:
            arrived = self._begun
            self._wanted.add(product)
        with self._lock:
            if self._result is not None and self._result[0] > arrived:
                result = self._result[1]
            else:
                with self._arrivals:
                    self._begun = number = self._begun + 1
                    # Its own product, too: a query that failed has taken the products that wait, and has no result.
                    wanted, self._wanted = frozenset(self._wanted | {product}), set()
                try:
                    result = self._query(wanted)
                except StoreUnavailable as error:
                    self._result = number, error.copy()
                    raise
                self._result = number, result
        if isinstance(result, StoreUnavailable):
            raise result.copy()
        return result


class RevisionFollower:
    """Keeps a registry in step with a database that other processes change.

    Args:
        registry: The registry.
        engine: The database.
        poll_s: Seconds between two polls.
        retries: When bundles that were refused are loaded again; by default as `LoadRetries` does.
        follow_audit: Called with the number of the newest entry of the audit log, before each lease and about every
            second. It may raise `StoreUnavailable`.
    """

    def __init__(
        self,
        registry: Registry,
        engine: Engine,
        poll_s: float = POLL_S,
        retries: LoadRetries | None = None,
        follow_audit: Callable[[int], None] = lambda _newest: None,
    ) -> None:
        self._registry = registry
        self._engine = engine
        self._poll_s = poll_s
        self._choices = BundleChoices(engine)
        self._retries = LoadRetries(registry.models) if retries is None else retries
        self._follow_audit = follow_audit
        self._newest: SharedQuery[Revisions] = SharedQuery(partial(read_revisions, engine))
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="revisions", daemon=True)

    def start(self) -> None:
        """Start the thread, and check every lease of the registry."""
        self._registry.synchronise = self.require_current
        self._registry.products.is_followed = True
        self._thread.start()

    def close(self) -> None:
        """Stop the thread. One that waits for the database is left behind."""
        self._stop.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(_STOP_S)

    def require_current(self, product: str) -> None:
        """Put the newest recipe of a product in force here, and changes of keys and accounts, made by another process.

        Raises:
            ProductNotReady: Another bundle was activated, which has to be loaded here first.
            StoreUnavailable: The database cannot be read.
        """
        revisions = self._newest(product)
        self._follow_audit(revisions.audit)
        newest = revisions.recipes.get(product)
        active = self._registry.active.get(product)
        if newest is None:
            self._registry.products.contains(product)  # another process may just have uploaded its first bundle
            return
        if active is not None and newest == active.recipe.revision:
            return
        if active is None:
            self._require_followed(product)
            return
        # Under the lock of the product: a change by this process has stored its revision, and puts it in force now.
        revision = self._registry.change_recipe(product, self._adopt)
        if revision.revision < newest:
            self._wake.set()
            raise ProductNotReady(
                product, "another process activated another bundle, which is being loaded here. Send the request again."
            )

    def _require_followed(self, product: str) -> None:
        """Refuse a product that another process put in force and that is about to be loaded here.

        Raises:
            ProductNotReady: It is.
        """
        registry = self._registry
        is_broken = any(broken.product == product for broken in registry.failures.broken)
        if is_broken or not registry.products.contains(product) or registry.is_loading(product):
            return  # the registry states the reason
        self._wake.set()
        raise ProductNotReady(
            product, "another process activated a bundle of it, which is being loaded here. Send the request again."
        )

    def poll(self) -> None:
        """Put everything in force that other processes changed, bundles included.

        Raises:
            StoreUnavailable: The database cannot be read.
        """
        revisions = read_revisions(self._engine)
        self._follow_audit(revisions.audit)
        newest, shadows = revisions.recipes, self._choices.versions("shadow")
        self._discover()
        registry = self._registry
        for product in sorted(registry.known & (newest.keys() | registry.active.keys())):
            if registry.closing:
                return
            active = registry.active.get(product)
            wanted = newest.get(product)
            if wanted is None or (active is not None and active.recipe.revision == wanted):
                self._end_failures(product, "active")
            elif not registry.is_loading(product):  # otherwise this process changes the product itself
                self._follow(product, "active", wanted, self._follow_active)
            if product in registry.active:
                self._poll_shadow(product, shadows.get(product))

    def _discover(self) -> None:
        """Register the products that another process added to the model repository."""
        try:
            self._registry.products.discover()
        except OSError as error:
            log.warning("model repository not read", path=str(self._registry.models), reason=error.strerror)

    def _poll_shadow(self, product: str, wanted: str | None) -> None:
        """Put the shadow deployment of a product in force: the given version, or none."""
        shadow = self._registry.shadows.get(product)
        if wanted == (None if shadow is None else shadow.bundle.version):
            self._end_failures(product, "shadow")
        else:
            self._follow(product, "shadow", wanted, lambda product: self._follow_shadow(product, wanted))

    def _follow(self, product: str, role: Role, wanted: Hashable, follow: Callable[[str], None]) -> None:
        """Put a change of one product in force, unless the same change failed a short time ago.

        Raises:
            StoreUnavailable: The database cannot be read.
        """
        if not self._retries.is_due(product, role, wanted):
            return
        try:
            follow(product)
        except (ChangeUnderWay, ShuttingDown):
            return  # this process changes the product itself, or ends
        except StoreUnavailable:
            raise
        except Exception as error:  # one product must not affect the others
            self._retries.add_failure(product, role, wanted)
            log.error(
                "change by another process not followed",
                product=product,
                role=role,
                reason=error.detail if isinstance(error, PlumblineError) else repr(error),
                exc_info=None if isinstance(error, PlumblineError) else error,
            )
        else:
            self._end_failures(product, role)

    def _end_failures(self, product: str, role: Role) -> None:
        if self._retries.clear(product, role) and role == "active":
            self._registry.failures.clear_broken(product)

    def _adopt(self, active: ActiveProduct, shadow: Shadow | None) -> tuple[RecipeRevision, Recipe | None]:
        """Return the newest revision if it belongs to the active bundle, otherwise the one in force."""
        revision = current_recipe(self._engine, active.bundle.manifest.product)
        if revision is None or revision.bundle_digest != active.bundle.digest:
            return active.recipe, None
        return revision, None if shadow is None else shadow_recipe(self._engine, shadow.bundle)

    def _follow_active(self, product: str) -> None:
        registry = self._registry
        revision = current_recipe(self._engine, product)
        active = registry.active.get(product)
        if active is not None and (revision is None or revision.bundle_digest == active.bundle.digest):
            registry.change_recipe(product, self._adopt)
            return
        if revision is None:
            return
        version = revision.bundle_digest[:12]
        with registry.changing(product):
            try:
                served = registry.prepare_bundle(product, version)
            except ShuttingDown:
                raise
            except PlumblineError as error:
                broken = BrokenBundle(product, version, error.slug, error.detail, error.retry_after_s)
                registry.failures.replace_broken(broken)
                raise
            # If the recipe was changed again meanwhile, the next poll or inspection adopts the change.
            registry.swap(product, served, lambda: (revision, None))
        log.info("bundle activated by another process", product=product, version=version)

    def _follow_shadow(self, product: str, version: str | None) -> None:
        with self._registry.changing(product):
            choice = self._choices.current(product, "shadow")
            if version != (None if choice is None else choice.version):
                return  # it was changed since the poll began, and loading the bundles of other products took a while
            if version is None:
                self._registry.stop_shadow(product, lambda: None)
                return
            served = self._registry.prepare_bundle(product, version, in_background=True)
            self._registry.start_shadow(product, served, lambda: (shadow_recipe(self._engine, served.bundle), None))

    def _work(self) -> None:
        while not self._stop.is_set():
            self._wake.wait(self._poll_s)
            self._wake.clear()
            if self._stop.is_set():
                return
            try:
                self.poll()
            except StoreUnavailable as error:
                log.warning("changes by other processes not read", reason=error.detail)
            except Exception:  # the thread must survive any error
                log.exception("changes by other processes not followed")
            self._stop.wait(min(self._poll_s, _MIN_PAUSE_S))
