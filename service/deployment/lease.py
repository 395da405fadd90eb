"""What is in force for a product, and leases on it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from service.bundle.bundle import Bundle
from service.deployment.errors import ProductNotReady
from service.deployment.served import ServedBundle
from service.inspection.bundle_rules import BundleRules
from service.inspection.inspector import Inspector
from service.recipes.recipe import Recipe
from service.store.records import RecipeRevision


@dataclass(frozen=True)
class ActiveProduct:
    """The bundle and the recipe that are in force for a product. Immutable, so the two always belong together."""

    served: ServedBundle
    recipe: RecipeRevision

    @property
    def bundle(self) -> Bundle:
        """The active bundle."""
        return self.served.bundle

    @property
    def rules(self) -> BundleRules:
        """What the bundle determines beside its graph."""
        return self.served.rules

    @property
    def inspector(self) -> Inspector:
        """The inspector. It may be used during a lease only."""
        return self.served.inspector

    @contextmanager
    def held(self) -> Iterator[Inspector]:
        """Lease the inspector for the block. Keep the block short: an activation waits for it.

        Raises:
            ProductNotReady: Another bundle was activated since this object was obtained, or the bundle is not in memory
                and cannot be loaded.
        """
        if not self.served.acquire():
            raise ProductNotReady(
                self.bundle.manifest.product, "another bundle was activated in the meantime. Send the request again."
            )
        try:
            yield self.inspector
        finally:
            self.served.release()


@dataclass(frozen=True)
class Shadow:
    """A shadow deployment: a bundle that judges the images of the active one, with a recipe of its own.

    Its verdicts are stored for comparison only.
    """

    served: ServedBundle
    recipe: Recipe

    @property
    def bundle(self) -> Bundle:
        """The shadow bundle."""
        return self.served.bundle

    @property
    def inspector(self) -> Inspector:
        """The inspector. It may be used during a lease only."""
        return self.served.inspector
