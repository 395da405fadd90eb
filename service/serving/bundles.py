"""Bundles of products: upload, list, activate, roll back, run as a shadow, compare."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from service.bundle.errors import RepositoryNotWritable
from service.bundle.manifest import PRODUCT_NAME
from service.deployment.comparison import Comparison, compare
from service.deployment.errors import ShadowRefused
from service.deployment.lease import ActiveProduct
from service.deployment.registry import Registry
from service.deployment.rollout import BundleVersion, Rollout
from service.errors import InvalidRequest
from service.store.audit import Actor
from service.store.records import BundleChoice, Role
from service.store.shadows import paired_verdicts
from service.store.store import Store


def require_product_name(product: str) -> None:
    """Check the name of a product that may be new.

    Raises:
        InvalidRequest: It is not valid.
    """
    if not PRODUCT_NAME.fullmatch(product):
        raise InvalidRequest(
            f"{product!r} is not a valid product name. Use 1 to 64 lower-case letters, digits, '-' and '_', "
            "beginning with a letter or a digit."
        )


@dataclass(frozen=True)
class ProductBundles:
    """The bundles of a product.

    Attributes:
        versions: All bundles, newest first.
        active: Version of the active bundle, or None.
        shadow: Version of the shadow bundle, or None.
    """

    versions: Sequence[BundleVersion]
    active: str | None
    shadow: str | None


@dataclass(frozen=True)
class ActivatedBundle:
    """A bundle that was activated.

    Attributes:
        choice: The stored choice, with author and reason.
        active: Bundle and recipe in force.
    """

    choice: BundleChoice
    active: ActiveProduct


class BundleService:
    """Lists and changes the bundles of products. All methods but `upload` block and must not run on the event loop.

    Args:
        models: The model repository.
        registry: Products and the bundles that serve them.
        rollout: Performs the changes.
        store: Stores choices and shadow decisions.
    """

    def __init__(self, models: Path, registry: Registry, rollout: Rollout, store: Store) -> None:
        self._models = models
        self._registry = registry
        self._rollout = rollout
        self._store = store

    async def upload(
        self,
        product: str,
        receive: Callable[[IO[bytes]], Coroutine[Any, Any, None]],
        *,
        actor: Actor,
        stated_bytes: int | None,
        create_product: bool,
    ) -> tuple[BundleVersion, bool]:
        """Add a bundle to the model repository. It does not serve until it is activated.

        Args:
            product: Name of the product.
            receive: Writes the archive into the given file, with limits on its time and rate.
            actor: Who uploads it.
            stated_bytes: Size of the archive that the client states, or None.
            create_product: Whether the product may be new.

        Returns:
            The bundle, and whether it was not in the repository before.

        Raises:
            InvalidRequest: The name of the product is not valid.
            UnknownProduct: The product is new, and `create_product` is false.
            UploadsBusy, NotEnoughSpace: The archive cannot be received.
            BundleArchiveInvalid, BundleTooLarge, BundleInvalid: The archive cannot be imported.
            RepositoryNotWritable: The model repository cannot be written.
            ChangeUnderWay, ShuttingDown, StoreUnavailable: See `activate`.
        """
        require_product_name(product)
        await asyncio.to_thread(self._rollout.check_upload, product, create_product=create_product)
        try:
            async with self._rollout.uploads.admit(stated_bytes) as upload:
                await receive(upload.file)
                return await upload.unpack(
                    lambda: self._rollout.upload(product, upload.file, actor=actor, create_product=create_product)
                )
        except OSError as error:
            raise RepositoryNotWritable(self._models, error.strerror) from error

    def list_bundles(self, product: str) -> ProductBundles:
        """Return the bundles of a product.

        Raises:
            UnknownProduct: There is no such product.
        """
        versions = self._rollout.versions(product)
        active, shadow = self._registry.active.get(product), self._registry.shadows.get(product)
        return ProductBundles(
            versions,
            active=None if active is None else active.bundle.version,
            shadow=None if shadow is None else shadow.bundle.version,
        )

    def get(self, product: str, version: str) -> BundleVersion:
        """Return one bundle.

        Raises:
            UnknownProduct, UnknownBundle: It does not exist.
        """
        return self._rollout.version(product, version)

    def activate(
        self, product: str, version: str, *, actor: Actor, reason: str, confirm_removal: int | None = None
    ) -> ActivatedBundle:
        """Activate a bundle from the next image on. It serves when this method returns.

        Args:
            product: Name of the product.
            version: The bundle's version.
            actor: Who activates it.
            reason: Why.
            confirm_removal: Number of inspections whose images may be removed because of the bundle's recipe.

        Raises:
            UnknownProduct, UnknownBundle: It does not exist.
            ChangeUnderWay, ShuttingDown: The bundles of the product cannot be changed now.
            BundleInvalid, ProviderUnavailable: The bundle cannot be served; the active one stays.
            RemovalNotConfirmed: The retention of its recipe would remove more than it keeps.
            StoreUnavailable: The choice could not be stored; the active bundle stays.
        """
        choice = self._rollout.activate(product, version, actor=actor, reason=reason, confirm_removal=confirm_removal)
        return ActivatedBundle(choice, self._registry.get(product))

    def roll_back(
        self, product: str, *, actor: Actor, reason: str, confirm_removal: int | None = None
    ) -> ActivatedBundle:
        """Activate the bundle that was active before the present one.

        Raises:
            NothingToRollBackTo: No other bundle was active before.
            PlumblineError: See `activate`.
        """
        choice = self._rollout.roll_back(product, actor=actor, reason=reason, confirm_removal=confirm_removal)
        return ActivatedBundle(choice, self._registry.get(product))

    def start_shadow(self, product: str, version: str, *, actor: Actor, reason: str) -> BundleChoice:
        """Run a bundle as the shadow of the active one from the next image on.

        Raises:
            ShadowRefused: The bundle is the active one, or no bundle is active.
            PlumblineError: See `activate`.
        """
        return self._rollout.start_shadow(product, version, actor=actor, reason=reason)

    def stop_shadow(self, product: str, *, actor: Actor, reason: str) -> BundleChoice:
        """Unload the shadow. Its decisions stay stored.

        Raises:
            ShadowRefused: There is no shadow.
            PlumblineError: See `activate`.
        """
        return self._rollout.stop_shadow(product, actor=actor, reason=reason)

    def history(self, product: str, role: Role, limit: int) -> Sequence[BundleChoice]:
        """Return the newest choices of bundles for a role, newest first.

        Raises:
            UnknownProduct: There is no such product.
            StoreUnavailable: The database cannot be used.
        """
        self._registry.products.look_up(product)
        return self._rollout.choices.history(product, role, limit=limit)

    def compare(
        self,
        product: str,
        active: str | None,
        shadow: str | None,
        limit: int,
        stations: Collection[str] | None = None,
    ) -> Comparison:
        """Compare the decisions of two bundles about the same images.

        Args:
            product: Name of the product.
            active: Version that decided; None for the active one.
            shadow: Version that ran as its shadow; None for the latest shadow.
            limit: Maximum number of images, newest first.
            stations: Only images of these stations; None for all images.

        Raises:
            UnknownProduct, ProductNotReady: No bundle serves this product.
            ShadowRefused: The product never had a shadow.
            StoreUnavailable: The database cannot be used.
        """
        self._registry.products.look_up(product)
        active = active or self._registry.get(product).bundle.version
        if shadow is None:
            shadow = self._rollout.choices.latest_version(product, "shadow")
            if shadow is None:
                raise ShadowRefused(product, f"{product!r} never had a shadow to compare with.")
        return compare(active, shadow, paired_verdicts(self._store.engine, product, active, shadow, limit, stations))
