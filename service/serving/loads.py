"""Wait for bundles that are loaded on demand, before a request takes a place among the running ones."""

from __future__ import annotations

import asyncio
from typing import Any

from service.deployment.registry import Registry
from service.deployment.served import require_loaded
from service.errors import InvalidRequest, QueueFull
from service.serving.admission import Disconnected


class BundleLoads:
    """Lets requests wait until the bundle of their product is in memory.

    They wait here and not in the queue of inspections: only a few of these run at once, and if they waited for bundles,
    no product whose bundle is in memory could be inspected meanwhile. It must be used from the event loop only.

    Args:
        registry: Products and their bundles.
        limit: Most requests that wait at the same time.
    """

    def __init__(self, registry: Registry, limit: int) -> None:
        self._registry = registry
        self._limit = limit
        self._waiting = 0

    async def wait(self, product: str, timeout_s: float, disconnected: Disconnected | None = None) -> bool:
        """Wait until the bundle of a product is in memory. Its load begins if it did not before.

        Args:
            product: Name of the product.
            timeout_s: Longest wait in seconds. The load continues afterwards.
            disconnected: Ends the wait when the client closes its connection.

        Returns:
            Whether the bundle was in memory already.

        Raises:
            UnknownProduct, ProductNotReady: No bundle serves this product, or its bundle was not loaded in time or
                cannot be loaded.
            QueueFull: Too many requests wait for bundles.
            InvalidRequest: The client closed the connection.
            ShuttingDown: The service is stopping.
        """
        load = self._registry.request(product)
        if load is None:
            return True
        if self._waiting >= self._limit:
            raise QueueFull(self._limit, self._registry.memory.retry_after_s())
        # `asyncio.wait` cancels nothing: the load belongs to all requests that wait for it.
        awaited: set[asyncio.Future[Any]] = {asyncio.wrap_future(load)}
        watcher = None if disconnected is None else asyncio.ensure_future(disconnected())
        if watcher is not None:
            awaited.add(watcher)
        self._waiting += 1
        try:
            await asyncio.wait(awaited, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._waiting -= 1
            if watcher is not None:
                watcher.cancel()
        if watcher is not None and watcher.done() and not load.done():
            raise InvalidRequest("The client closed the connection while the bundle of its product was loaded.")
        require_loaded(product, load, self._registry.memory.retry_after_s())
        return False
