"""Changes of products: which are in progress, and their mutual exclusion."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from service.deployment.errors import ChangeUnderWay
from service.errors import ShuttingDown


class ProductChanges:
    """Reserves products for changes of their bundles, and holds the lock of each product.

    Loading a bundle takes seconds, during which its product is reserved: a second change of its bundles is refused. The
    lock of a product is held for the moment in which a change is stored and put in force: another change waits for it.
    Changes of different products never wait for each other.

    Args:
        products: Products that are reserved until `end` is called for them.

    Attributes:
        closing: Set when no further changes begin.
    """

    def __init__(self, products: Iterable[str]) -> None:
        self.closing = threading.Event()
        self._state_lock = threading.Lock()
        self._locks: dict[str, threading.Lock] = {}
        self._reserved = set(products)

    def is_reserved(self, product: str) -> bool:
        """Return whether a change of the product's bundles is in progress."""
        return product in self._reserved

    @contextmanager
    def reserve(self, product: str) -> Iterator[None]:
        """Reserve the product for a change of its bundles for the block.

        Raises:
            ChangeUnderWay: Another change of the product's bundles is in progress.
            ShuttingDown: `close` was called.
        """
        with self._state_lock:
            if self.closing.is_set():
                raise ShuttingDown()
            if product in self._reserved:
                raise ChangeUnderWay(product)
            self._reserved.add(product)
        try:
            yield
        finally:
            self.end(product)

    def end(self, product: str) -> None:
        """End the reservation of a product."""
        with self._state_lock:
            self._reserved.discard(product)

    @contextmanager
    def lock(self, product: str) -> Iterator[None]:
        """Hold the product's lock for the block.

        Raises:
            ShuttingDown: `close` was called.
        """
        with self._state_lock:
            if self.closing.is_set():  # `close` only returns the locks that exist at its start
                raise ShuttingDown()
            lock = self._locks.setdefault(product, threading.Lock())
        with lock:
            if self.closing.is_set():
                raise ShuttingDown()
            yield

    def close(self) -> list[tuple[str, threading.Lock]]:
        """Refuse further changes. Return the product locks that were used, those that are held now last."""
        with self._state_lock:
            self.closing.set()
            locks = dict(self._locks)
        return sorted(locks.items(), key=lambda item: item[1].locked())
