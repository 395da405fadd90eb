"""Leases on inspectors: a bundle is unloaded only after its last inspection."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from service.bundle.bundle import Bundle
from service.deployment.errors import ProductNotReady
from service.inspection.inspector import Inspector
from service.recipes.recipe import Recipe
from service.store.records import RecipeRevision


class LeaseCount:
    """Counts the leases on an inspector, and closes the inspector when it is retired and the last lease ends.

    Args:
        inspector: The inspector. Only this object closes it.

    Attributes:
        ended: Set when the inspector is closed.
    """

    def __init__(self, inspector: Inspector) -> None:
        self.ended = threading.Event()
        self._inspector = inspector
        self._lock = threading.Lock()
        self._count = 0
        self._retired = False

    def acquire(self) -> bool:
        """Take a lease. Return False if the inspector is retired."""
        with self._lock:
            if self._retired:
                return False
            self._count += 1
            return True

    def release(self) -> None:
        """End a lease that `acquire` took."""
        with self._lock:
            self._count -= 1
            is_last = self._retired and self._count == 0
        if is_last:
            self._end()

    def retire(self) -> None:
        """Refuse new leases, and close the inspector when the last lease ends."""
        with self._lock:
            is_first = not self._retired
            self._retired = True
            is_unused = self._count == 0
        if is_first and is_unused:
            self._end()

    def _end(self) -> None:
        self._inspector.close(drain=True)
        self.ended.set()


@dataclass(frozen=True)
class ActiveProduct:
    """The bundle and the recipe that are in force for a product. Immutable, so the two always belong together."""

    inspector: Inspector
    recipe: RecipeRevision
    leases: LeaseCount

    @property
    def bundle(self) -> Bundle:
        """The active bundle."""
        return self.inspector.bundle

    @contextmanager
    def held(self) -> Iterator[Inspector]:
        """Lease the inspector for the block. Keep the block short: an activation waits for it.

        Raises:
            ProductNotReady: Another bundle was activated since this object was obtained.
        """
        if not self.leases.acquire():
            raise ProductNotReady(
                self.bundle.manifest.product, "another bundle was activated in the meantime. Send the request again."
            )
        try:
            yield self.inspector
        finally:
            self.leases.release()


@dataclass(frozen=True)
class Shadow:
    """A shadow deployment: a bundle that judges the images of the active one, with a recipe of its own.

    Its verdicts are stored for comparison only.
    """

    inspector: Inspector
    recipe: Recipe
    leases: LeaseCount

    @property
    def bundle(self) -> Bundle:
        """The shadow bundle."""
        return self.inspector.bundle
