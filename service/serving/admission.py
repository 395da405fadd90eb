"""Admission control: limit the number of requests in flight before any work is done for them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager

from service.errors import QueueFull, ShuttingDown

_MIN_RETRY_S = 0.1
_SMOOTHING = 0.1  # weight of the newest duration in the moving average
_POLL_S = 0.05


class Admission:
    """A bound on the requests in flight, counted from before the body is read until the response is ready.

    It must be used from the event loop only; therefore counting needs no lock.

    Args:
        limit: Maximum number of requests in flight.

    Attributes:
        depth: Number of requests in flight.
        draining: Set when no new requests are admitted.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.depth = 0
        self.draining = asyncio.Event()
        self._mean_duration_s = _MIN_RETRY_S

    @property
    def is_draining(self) -> bool:
        """Whether no new requests are admitted."""
        return self.draining.is_set()

    def close(self) -> None:
        """Admit no new requests. Requests in flight are completed."""
        self.draining.set()

    @contextmanager
    def enter(self) -> Iterator[None]:
        """Count one request as in flight until the block ends.

        Raises:
            QueueFull: The limit is reached.
            ShuttingDown: The service is stopping.
        """
        if self.is_draining:
            raise ShuttingDown()
        if self.depth >= self.limit:
            # All requests in flight now have left after about the mean duration of one of them.
            raise QueueFull(self.limit, round(max(_MIN_RETRY_S, self._mean_duration_s), 1))
        self.depth += 1
        entered = time.perf_counter()
        try:
            yield
            self._mean_duration_s += _SMOOTHING * (time.perf_counter() - entered - self._mean_duration_s)
        finally:
            self.depth -= 1

    @asynccontextmanager
    async def wait(self, timeout_s: float) -> AsyncIterator[None]:
        """Count one request as in flight until the block ends; wait while the limit is reached.

        Args:
            timeout_s: Maximum wait in seconds.

        Raises:
            QueueFull: The limit was reached during the whole wait.
            ShuttingDown: The service is stopping.
        """
        give_up = time.monotonic() + timeout_s
        with ExitStack() as entered:
            while True:
                try:
                    entered.enter_context(self.enter())
                    break
                except QueueFull:
                    if time.monotonic() > give_up:
                        raise
                    await asyncio.sleep(_POLL_S)
            yield
