"""Who may come in: a bound on the inspections in the house, enforced before any work is done for them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager

from service.errors import QueueFull, ShuttingDown


class Admission:
    """Counts inspections from before their body is read until their answer is ready.

    Used from the event loop only, which is what makes counting without a lock right.

    Args:
        limit: Inspections in the house at a time.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.depth = 0
        self.drained = asyncio.Event()
        self._mean_stay_s = 0.1

    @property
    def draining(self) -> bool:
        """Whether nobody is let in any more."""
        return self.drained.is_set()

    def close(self) -> None:
        """Let nobody in any more. Who is in stays to the end; `drained` wakes those who wait for this."""
        self.drained.set()

    @contextmanager
    def enter(self) -> Iterator[None]:
        """Take a place and give it back at the end.

        Raises:
            QueueFull: Every place is taken.
            ShuttingDown: The house is being closed.
        """
        if self.draining:
            raise ShuttingDown()
        if self.depth >= self.limit:
            # One stay is how long it takes until everybody who is in now is out.
            raise QueueFull(self.limit, round(max(0.1, self._mean_stay_s), 1))
        self.depth += 1
        entered = time.perf_counter()
        try:
            yield
            self._mean_stay_s += 0.1 * (time.perf_counter() - entered - self._mean_stay_s)
        finally:
            self.depth -= 1
