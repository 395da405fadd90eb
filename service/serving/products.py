"""Products of the model repository and what serves them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from service.deployment.failures import BrokenBundle
from service.deployment.lease import ActiveProduct, Shadow
from service.deployment.registry import Registry
from service.schemas.drift import Suspension
from service.serving.drift.guarantees import Guarantees


@dataclass(frozen=True)
class ProductState:
    """A product and the bundles that serve it.

    Attributes:
        name: Name of the product.
        active: Bundle and recipe in force; None if no bundle serves the product.
        shadow: The shadow bundle, or None.
        broken: Bundles of the product that should be served and are not.
        is_loading: Whether a bundle of the product is being loaded.
        suspension: Why the guarantee is suspended; None if it is not.
    """

    name: str
    active: ActiveProduct | None
    shadow: Shadow | None
    broken: Sequence[BrokenBundle]
    is_loading: bool
    suspension: Suspension | None = None


class ProductService:
    """Describes products.

    Args:
        registry: Products and the bundles that serve them.
        guarantees: Which guarantees are suspended.
    """

    def __init__(self, registry: Registry, guarantees: Guarantees) -> None:
        self._registry = registry
        self._guarantees = guarantees

    def list_products(self) -> list[ProductState]:
        """Return every product of the model repository, served or not, by name."""
        return [self._describe(name) for name in sorted(self._registry.known)]

    def get(self, product: str) -> ProductState:
        """Return one product, also if another replica just uploaded it. May read the database.

        Raises:
            UnknownProduct: There is no such product.
            StoreUnavailable: The database is shared and cannot be read.
        """
        self._registry.products.look_up(product)
        return self._describe(product)

    async def find(self, product: str) -> ProductState:
        """Return one product as `get` does, on the event loop. Only a product that is not known here takes a thread.

        Raises:
            UnknownProduct, StoreUnavailable: As for `get`.
        """
        if product not in self._registry.known:
            await asyncio.to_thread(self._registry.products.look_up, product)
        return self._describe(product)

    def _describe(self, name: str) -> ProductState:
        registry = self._registry
        active = registry.active.get(name)
        return ProductState(
            name=name,
            active=active,
            shadow=registry.shadows.get(name),
            broken=[broken for broken in registry.broken if broken.product == name],
            is_loading=registry.is_loading(name),
            suspension=None if active is None else self._guarantees.suspension(active.recipe),
        )
