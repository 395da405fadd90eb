"""Products and the bundles that serve them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar

import structlog
from sqlalchemy import Engine

from service.bundle.bundle import bundle_folders
from service.bundle.errors import BundleIntegrity, BundleInvalid
from service.deployment.errors import ChangeUnderWay, ProductNotReady, UnknownProduct
from service.deployment.lease import ActiveProduct, Shadow, Usage
from service.deployment.memory import return_freed_memory
from service.deployment.recipes import fitting_recipe, recipe_in_force
from service.deployment.repository import load_inspector, product_folders
from service.errors import PlumblineError, ShuttingDown
from service.inspection.errors import ProviderUnavailable
from service.inspection.inspector import Inspector, InspectorOptions
from service.inspection.runtime.threads import run_in_background
from service.monitoring.metrics import Metrics
from service.store.choices import BundleChoices
from service.store.errors import StoreUnavailable
from service.store.recipes import RecipeRevision

log = structlog.get_logger(__name__)
RETRY_S = 1.0
DRAIN_TIMEOUT_S = 60.0
AnswerT = TypeVar("AnswerT")


@dataclass(frozen=True)
class BrokenBundle:
    """A bundle that is not served, and why."""

    product: str
    version: str
    slug: str
    reason: str


class Registry:
    """Loads the model repository and says which bundle and recipe serve a product.

    `service.deployment.rollout` decides what changes; here is what is in force.

    Args:
        models: The model repository, `<product>/<version>/`.
        options: How products are run.
        engine: The database, for recipes and for the choice of bundles.
        metrics: Told about everything that starts or ends to serve.
    """

    def __init__(self, models: Path, options: InspectorOptions, engine: Engine, metrics: Metrics) -> None:
        self.models = models
        self.options = options
        self.choices = BundleChoices(engine)
        self.loading = True
        self._engine = engine
        self._metrics = metrics
        self._active: Mapping[str, ActiveProduct] = MappingProxyType({})
        self._shadows: Mapping[str, Shadow] = MappingProxyType({})
        self._broken: tuple[BrokenBundle, ...] = ()
        self._refused: Mapping[tuple[str, str], BrokenBundle] = MappingProxyType({})
        self._known = frozenset(product_folders(models))
        # Taken for the moment of a change. Readers see one immutable mapping or the next.
        self._changing = threading.Lock()
        # Products whose bundles somebody loads or exchanges now, which takes seconds; at first, that is `load`.
        self._under_way = set(self._known)
        self._closing = threading.Event()

    @property
    def active(self) -> Mapping[str, ActiveProduct]:
        return self._active

    @property
    def shadows(self) -> Mapping[str, Shadow]:
        return self._shadows

    @property
    def broken(self) -> tuple[BrokenBundle, ...]:
        """Bundles that should serve and do not."""
        return self._broken

    @property
    def refused(self) -> Mapping[tuple[str, str], BrokenBundle]:
        """Every bundle whose last attempt to load it failed, by product and version, whether it should serve or not."""
        return self._refused

    @property
    def known(self) -> frozenset[str]:
        """Every product of the repository, served or not."""
        return self._known

    def load(self) -> None:
        """Load the chosen bundle of every product, or the newest intact one where nobody chose, and its shadow.

        One that fails is named and stops nobody else.
        """
        try:
            for product in sorted(self._known):
                if self._closing.is_set():
                    break
                try:
                    self._load_product(product)
                    self._load_shadow(product)
                except OSError as error:  # its folder vanished or may not be read
                    reason = f"the folder {self.models / product} cannot be read ({error.strerror})."
                    self._broken += (BrokenBundle(product, "unknown", BundleIntegrity.slug, reason),)
                    log.error("product not served", product=product, reason=reason)
                finally:
                    self._end_change(product)
        finally:
            self.loading = False

    def get(self, product: str) -> ActiveProduct:
        """What inspects a product now. To inspect with it, `lease` it.

        Raises:
            UnknownProduct: The repository has no such product.
            ProductNotReady: It has, but no bundle of it serves.
        """
        active = self._active.get(product)
        if active is not None:
            return active
        if product not in self._known:
            raise UnknownProduct(product, self._known)
        reasons = [broken.reason for broken in self._broken if broken.product == product]
        if not reasons:
            is_loading = self.is_loading(product)
            reasons = ["its bundle is still being loaded." if is_loading else "none of its bundles was activated yet."]
        raise ProductNotReady(product, " ".join(reasons))

    def is_loading(self, product: str) -> bool:
        """Whether a bundle of the product is on its way into service."""
        return product in self._under_way

    @contextmanager
    def lease(self, product: str) -> Iterator[ActiveProduct]:
        """What inspects a product now, and does so until the block ends, whatever is activated meanwhile.

        Raises:
            UnknownProduct, ProductNotReady: As `get`.
        """
        # Between looking and entering another bundle may take its place; then the look was too early.
        while not (active := self.get(product)).usage.enter():
            pass
        try:
            yield active
        finally:
            active.usage.leave()

    @contextmanager
    def lease_shadow(self, product: str) -> Iterator[Shadow | None]:
        """The product's shadow until the block ends; None where it has none."""
        shadow = self._shadows.get(product)
        if shadow is None or not shadow.usage.enter():
            yield None
            return
        try:
            yield shadow
        finally:
            shadow.usage.leave()

    def change_recipe(self, product: str, change: Callable[[ActiveProduct], RecipeRevision]) -> RecipeRevision:
        """Store a new recipe and put it in force, with nothing in between that could be seen.

        Args:
            product: Whose recipe.
            change: Stores the new revision; what it raises leaves everything as it was.

        Raises:
            UnknownProduct, ProductNotReady: As `get`.
        """
        with self._changing:
            active = self.get(product)
            revision = change(active)
            self._show(product, replace(active, recipe=revision))
            shadow = self._shadows.get(product)
            if shadow is not None:  # it follows the rates that the product is run at
                self._shade(product, replace(shadow, recipe=fitting_recipe(self._engine, shadow.bundle)[0]))
        return revision

    @contextmanager
    def changing(self, product: str) -> Iterator[None]:
        """Be the only one who changes the product's bundles until the block ends.

        Raises:
            ChangeUnderWay: Somebody else is.
        """
        with self._changing:
            if self._closing.is_set():
                raise ShuttingDown()
            if product in self._under_way:
                raise ChangeUnderWay(product)
            self._under_way.add(product)
        try:
            yield
        finally:
            self._end_change(product)

    def load_bundle(self, product: str, version: str, *, in_background: bool = False) -> Inspector:
        """Load one of a product's bundles, to serve with it.

        Args:
            product: Whose bundle.
            version: Which.
            in_background: Its threads give way to those of every other bundle.

        Raises:
            BundleInvalid, ProviderUnavailable: It would not be served. It is remembered as refused.
        """
        path = self.models / product / version
        try:
            if in_background:
                inspector = run_in_background(lambda: load_inspector(path, product, self.options))
            else:
                inspector = load_inspector(path, product, self.options)
        except PlumblineError as error:
            refusal = error
        except Exception as error:  # whatever one bundle does, the others are served
            log.exception("bundle cannot be loaded", product=product, version=version)
            refusal = BundleInvalid(path, f"loading it failed unexpectedly ({error!r}); see the log.")
        else:
            self._pardon(product, version)
            return inspector
        self._refuse(BrokenBundle(product, version, refusal.slug, refusal.detail))
        raise refusal

    def swap(self, product: str, inspector: Inspector, remember: Callable[[], AnswerT]) -> AnswerT:
        """Let a loaded bundle inspect from the next image on, with its recipe. The old one finishes what it has in
        work and is unloaded.

        Args:
            product: Whose bundle; the caller is the one who is `changing` it.
            inspector: Loaded and tested; closed where it does not get into service.
            remember: Stores the choice; what it raises leaves everything as it was.

        Returns:
            What `remember` returned.
        """
        try:
            with self._changing:
                if self._closing.is_set():
                    raise ShuttingDown()
                recipe = recipe_in_force(self._engine, inspector.bundle)
                remembered = remember()
                old = self._active.get(product)
                self._show(product, ActiveProduct(inspector, recipe, Usage(inspector)))
                # Somebody decided what serves, so nothing that should serve is missing.
                self._broken = tuple(broken for broken in self._broken if broken.product != product)
        except BaseException:
            inspector.close()
            raise
        _see_off(old)
        return remembered

    def set_shadow(self, product: str, inspector: Inspector | None, remember: Callable[[], AnswerT]) -> AnswerT:
        """Let a loaded bundle watch from the next image on, or nobody; otherwise as `swap`."""
        try:
            with self._changing:
                shadow = None
                if inspector is not None:
                    shadow = Shadow(inspector, fitting_recipe(self._engine, inspector.bundle)[0], Usage(inspector))
                remembered = remember()
                old = self._shadows.get(product)
                self._shade(product, shadow)
        except BaseException:
            if inspector is not None:
                inspector.close()
            raise
        _see_off(old)
        return remembered

    def look_again(self, product: str, version: str) -> None:
        """Take note of a bundle that was added, or put right."""
        with self._changing:
            self._known |= {product}
        self._pardon(product, version)

    def close(self) -> None:
        """Answer what waits in every product and end the inference threads."""
        self._closing.set()
        with self._changing:
            serving = [active.inspector for active in self._active.values()]
            for inspector in [*serving, *(shadow.inspector for shadow in self._shadows.values())]:
                inspector.close(drain=True)

    def _end_change(self, product: str) -> None:
        with self._changing:
            self._under_way.discard(product)

    def _load_product(self, product: str) -> None:
        candidates = self._wait_for_store(product, lambda: self._candidates(product))
        for path in candidates or ():
            try:
                inspector = self.load_bundle(product, path.name)
            except PlumblineError as error:
                self._broken += (BrokenBundle(product, path.name, error.slug, error.detail),)
                log.error("bundle not served", product=product, version=path.name, reason=error.detail)
                if isinstance(error, ProviderUnavailable):
                    return  # not the bundle's fault, and an older one would meet the same machine
                continue
            try:
                recipe = self._wait_for_store(product, lambda: recipe_in_force(self._engine, inspector.bundle))  # noqa: B023
            except BaseException:
                inspector.close()
                raise
            with self._changing:
                if self._closing.is_set() or recipe is None:
                    inspector.close()
                    return
                self._show(product, ActiveProduct(inspector, recipe, Usage(inspector)))
            log.info(
                "product ready",
                product=product,
                version=inspector.bundle.version,
                provider=inspector.provider,
                recipe_revision=recipe.revision,
            )
            return

    def _candidates(self, product: str) -> Sequence[Path]:
        """What may serve a product, best first: what was chosen and then what served before it; where nobody ever
        chose, the newest bundle and then the older ones."""
        chosen = self.choices.lineage(product)
        if not chosen:
            return bundle_folders(self.models / product)
        versions = dict.fromkeys(choice.version for choice in chosen)
        return [self.models / product / version for version in versions if version]

    def _load_shadow(self, product: str) -> None:
        """A shadow that cannot be loaded is named in the list of bundles; the product is served without it."""
        choice = self._wait_for_store(product, lambda: self.choices.current(product, "shadow"))
        if choice is None or choice.version is None or product not in self._active:
            return
        try:
            self.set_shadow(product, self.load_bundle(product, choice.version, in_background=True), lambda: None)
        except PlumblineError as error:
            log.error("shadow not loaded", product=product, version=choice.version, reason=error.detail)

    def _wait_for_store(self, product: str, ask: Callable[[], AnswerT]) -> AnswerT | None:
        """What the store answers. One that does not answer is waited for: it is not the bundle's fault, and an older
        bundle in its place would be a silent roll-back. None when the registry was closed meanwhile."""
        while not self._closing.is_set():
            try:
                return ask()
            except StoreUnavailable as error:
                log.warning("store not read, trying again", product=product, reason=error.detail)
                self._closing.wait(RETRY_S)
        return None

    def _show(self, product: str, active: ActiveProduct) -> None:
        # The metrics first: as soon as the product can be inspected, its inspections are counted.
        self._metrics.show_product(active.bundle, active.inspector.provider)
        self._metrics.show_recipe(product, active.recipe.recipe, active.recipe.revision)
        self._active = MappingProxyType({**self._active, product: active})

    def _shade(self, product: str, shadow: Shadow | None) -> None:
        others = {name: other for name, other in self._shadows.items() if name != product}
        self._metrics.show_shadow(product, None if shadow is None else shadow.bundle)
        self._shadows = MappingProxyType(others if shadow is None else {**others, product: shadow})

    def _refuse(self, broken: BrokenBundle) -> None:
        with self._changing:
            self._refused = MappingProxyType({**self._refused, (broken.product, broken.version): broken})

    def _pardon(self, product: str, version: str) -> None:
        with self._changing:
            others = {key: broken for key, broken in self._refused.items() if key != (product, version)}
            self._refused = MappingProxyType(others)


def _see_off(old: ActiveProduct | Shadow | None) -> None:
    """Let a bundle finish what it has in work, and unload it."""
    if old is None:
        return
    old.usage.retire()
    # Whoever changes bundles next finds only those loaded that serve. An inspection ends at its deadline at the
    # latest; one that hangs longer is not worth waiting for, and closes its bundle itself when it ends.
    if not old.usage.ended.wait(DRAIN_TIMEOUT_S):
        log.error("bundle still busy", version=old.bundle.version, seconds=DRAIN_TIMEOUT_S)
    return_freed_memory()
