"""Products and the bundles that serve them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

import structlog

from service.bundle import PRODUCT_NAME, Bundle, bundle_folders
from service.errors import BundleIntegrity, PlumblineError, ProductNotReady, ProviderUnavailable, UnknownProduct
from service.inspection.inspector import Inspector, InspectorOptions
from service.store.errors import StoreUnavailable
from service.store.recipes import RecipeRevision

log = structlog.get_logger(__name__)

RETRY_S = 1.0


@dataclass(frozen=True)
class ActiveProduct:
    """What inspects a product now. Immutable: whoever took it keeps bundle and recipe together to the end."""

    inspector: Inspector
    recipe: RecipeRevision

    @property
    def bundle(self) -> Bundle:
        return self.inspector.bundle


@dataclass(frozen=True)
class BrokenBundle:
    """A bundle that is not served, and why."""

    product: str
    version: str
    slug: str
    reason: str


class Registry:
    """Loads the model repository and says which bundle and recipe serve a product.

    Args:
        models: The model repository, `<product>/<version>/`.
        options: How products are run.
        recipe_for: Finds the recipe in force for a bundle.
        on_active: Told about every product that starts to serve or gets another recipe.
    """

    def __init__(
        self,
        models: Path,
        options: InspectorOptions,
        recipe_for: Callable[[Bundle], RecipeRevision],
        on_active: Callable[[ActiveProduct], None],
    ) -> None:
        self.models = models
        self.options = options
        self.loading = True
        self._recipe_for = recipe_for
        self._on_active = on_active
        self._active: Mapping[str, ActiveProduct] = MappingProxyType({})
        self._broken: tuple[BrokenBundle, ...] = ()
        self._known = frozenset(product_folders(models))
        # Taken by who changes things. Readers see one immutable mapping or the next.
        self._changing = threading.Lock()
        self._closing = threading.Event()

    @property
    def active(self) -> Mapping[str, ActiveProduct]:
        return self._active

    @property
    def broken(self) -> tuple[BrokenBundle, ...]:
        return self._broken

    @property
    def known(self) -> frozenset[str]:
        """Every product of the repository, served or not."""
        return self._known

    def load(self) -> None:
        """Load the newest intact bundle of every product. One that fails is named and stops nobody else."""
        try:
            for product in sorted(self._known):
                if self._closing.is_set():
                    break
                try:
                    self._load_product(product)
                except OSError as error:  # its folder vanished or may not be read
                    reason = f"the folder {self.models / product} cannot be read ({error.strerror})."
                    self._broken += (BrokenBundle(product, "unknown", BundleIntegrity.slug, reason),)
                    log.error("product not served", product=product, reason=reason)
        finally:
            self.loading = False

    def get(self, product: str) -> ActiveProduct:
        """What inspects a product now.

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
        raise ProductNotReady(product, " ".join(reasons) or "its bundle is still being loaded.")

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
            self._activate(product, replace(active, recipe=revision))
        return revision

    def close(self) -> None:
        """Answer what waits in every product and end the inference threads."""
        self._closing.set()
        with self._changing:
            for active in self._active.values():
                active.inspector.close(drain=True)

    def _load_product(self, product: str) -> None:
        for path in bundle_folders(self.models / product):
            try:
                inspector = load_inspector(path, product, self.options)
            except PlumblineError as error:
                self._broken += (BrokenBundle(product, path.name, error.slug, error.detail),)
                log.error("bundle not served", product=product, version=path.name, reason=error.detail)
                if isinstance(error, ProviderUnavailable):
                    return  # not the bundle's fault, and an older one would meet the same machine
                continue
            except Exception as error:  # whatever one bundle does, the others are served
                reason = f"loading it failed unexpectedly ({error!r}); see the log."
                self._broken += (BrokenBundle(product, path.name, PlumblineError.slug, reason),)
                log.exception("bundle not served", product=product, version=path.name)
                continue
            try:
                recipe = self._wait_for_recipe(inspector.bundle)
            except BaseException:
                inspector.close()
                raise
            with self._changing:
                if self._closing.is_set() or recipe is None:
                    inspector.close()
                    return
                self._activate(product, ActiveProduct(inspector, recipe))
            log.info(
                "product ready",
                product=product,
                version=inspector.bundle.version,
                provider=inspector.provider,
                recipe_revision=recipe.revision,
            )
            return

    def _wait_for_recipe(self, bundle: Bundle) -> RecipeRevision | None:
        """The recipe in force. A store that does not answer is waited for: it is not the bundle's fault, and an older
        bundle in its place would be a silent roll-back. None when the registry was closed meanwhile."""
        while not self._closing.is_set():
            try:
                return self._recipe_for(bundle)
            except StoreUnavailable as error:
                log.warning("recipe not read, trying again", product=bundle.manifest.product, reason=error.detail)
                self._closing.wait(RETRY_S)
        return None

    def _activate(self, product: str, active: ActiveProduct) -> None:
        # The metrics first: as soon as the product can be inspected, its inspections are counted.
        self._on_active(active)
        self._active = MappingProxyType({**self._active, product: active})


def load_inspector(path: Path, product: str, options: InspectorOptions) -> Inspector:
    """Load a bundle for the product whose folder it lies in.

    Raises:
        BundleInvalid, ProviderUnavailable: As `Inspector.load`; also when it is another product's bundle.
    """
    inspector = Inspector.load(path, options)
    made_for = inspector.bundle.manifest.product
    if made_for != product:
        inspector.close()
        raise BundleIntegrity(path, f"it was made for product {made_for!r} and lies in the folder of {product!r}.")
    return inspector


def product_folders(models: Path) -> Iterator[str]:
    """Names of the products in a model repository."""
    if not models.is_dir():
        return
    for folder in sorted(models.iterdir()):
        if folder.name.startswith(".") or not folder.is_dir():
            continue
        if PRODUCT_NAME.fullmatch(folder.name) and _may_hold_bundles(folder):
            yield folder.name


def _may_hold_bundles(product_folder: Path) -> bool:
    try:
        return any(bundle_folders(product_folder))
    except OSError:
        return True  # named as broken when it is loaded, instead of missing without a word
