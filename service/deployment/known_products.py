"""The products that exist, active or not."""

from __future__ import annotations

import threading
from collections.abc import Set

from service.bundle.manifest import PRODUCT_NAME
from service.deployment.errors import UnknownProduct
from service.deployment.sources.source import BundleSource


class KnownProducts:
    """The names of all products that have a bundle.

    Those that another process adds are noticed with a delay, or when they are looked up.

    Readers take no lock: the set of names is immutable and replaced as a whole.

    Args:
        source: Where the bundles come from.

    Attributes:
        is_followed: Whether other processes may add products. False by default.
    """

    def __init__(self, source: BundleSource) -> None:
        self.is_followed = False
        self._source = source
        self._names = frozenset(source.products())
        self._lock = threading.Lock()

    @property
    def names(self) -> frozenset[str]:
        """The products that were noticed so far."""
        return self._names

    def contains(self, product: str) -> bool:
        """Return whether there is such a product, also if another process just added it.

        Reads the database or the model repository if the product was not noticed yet.

        Raises:
            StoreUnavailable: The database cannot be read.
        """
        if product not in self._names and self._is_stored(product):
            self.add({product})
        return product in self._names

    def look_up(self, product: str) -> None:
        """Check that there is such a product, as `contains` does.

        Raises:
            UnknownProduct: There is none.
            StoreUnavailable: The database cannot be read.
        """
        if not self.contains(product):
            self.require(product)

    def require(self, product: str) -> None:
        """Check that a product was noticed. Reads nothing, so it may run on an event loop.

        Raises:
            UnknownProduct: It was not.
        """
        if product not in self._names:
            raise UnknownProduct(product, self._names, self._source.repository)

    def discover(self) -> None:
        """Notice all products that another process added.

        Raises:
            OSError: The model repository cannot be read.
            StoreUnavailable: The database cannot be read.
        """
        found = self._source.products(besides=self._names)
        if found:
            self.add(found)

    def add(self, products: Set[str]) -> None:
        """Add products."""
        with self._lock:
            self._names |= products

    def _is_stored(self, product: str) -> bool:
        if not (self._source.is_shared or self.is_followed) or PRODUCT_NAME.fullmatch(product) is None:
            return False
        try:
            return bool(self._source.versions(product))
        except OSError:  # `RevisionFollower` logs it
            return False
