"""Who works with an inspector: what lets a bundle leave only after its last inspection."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from service.bundle.bundle import Bundle
from service.deployment.errors import ProductNotReady
from service.inspection.inspector import Inspector
from service.recipes.recipe import Recipe
from service.store.recipes import RecipeRevision


class Usage:
    """Counts the inspections that an inspector has in work, and closes it when it was retired and has none.

    Args:
        inspector: Closed by this object only.

    Attributes:
        ended: Set when the inspector is closed.
    """

    def __init__(self, inspector: Inspector) -> None:
        self.ended = threading.Event()
        self._inspector = inspector
        self._lock = threading.Lock()
        self._count = 0
        self._retired = False

    def enter(self) -> bool:
        """Begin to work with it; False where it takes nothing new any more."""
        with self._lock:
            if self._retired:
                return False
            self._count += 1
            return True

    def leave(self) -> None:
        """End what `enter` began."""
        with self._lock:
            self._count -= 1
            is_last = self._retired and self._count == 0
        if is_last:
            self._end()

    def retire(self) -> None:
        """Take nothing new; who works with it finishes first."""
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
    """What inspects a product now. Immutable: whoever took it keeps bundle and recipe together to the end."""

    inspector: Inspector
    recipe: RecipeRevision
    usage: Usage

    @property
    def bundle(self) -> Bundle:
        return self.inspector.bundle

    @contextmanager
    def held(self) -> Iterator[Inspector]:
        """Its inspector, until the block ends. For a moment's work: whoever activates another bundle waits for it.

        Raises:
            ProductNotReady: Another bundle was activated since this one was looked up.
        """
        if not self.usage.enter():
            raise ProductNotReady(self.bundle.manifest.product, "another bundle was activated meanwhile. Ask again.")
        try:
            yield self.inspector
        finally:
            self.usage.leave()


@dataclass(frozen=True)
class Shadow:
    """A bundle that judges what another one decided, with a recipe of its own. Nobody acts on what it says."""

    inspector: Inspector
    recipe: Recipe
    usage: Usage

    @property
    def bundle(self) -> Bundle:
        return self.inspector.bundle
