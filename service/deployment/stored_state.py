"""Bundle and recipe in force of all products, read from the database with a few queries.

A replica that starts needs them for every product. Queries for each product would take most of the time of its start.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from sqlalchemy import Engine

from service.bundle.manifest import Digest
from service.deployment.sources.source import BundleSource
from service.store.choices import BundleChoices
from service.store.recipes import current_recipes
from service.store.records import RecipeRevision


@dataclass(frozen=True)
class StoredState:
    """What was in force when the database was read.

    It may be outdated when it is used, so use it only where a `RevisionFollower` compares the revision of the recipe
    with the newest one before each inspection. It contains no product whose recipe was made for another bundle than the
    one in force, and none with several bundles of which none was ever chosen: for these, read the database again.

    Attributes:
        recipes: The recipe revision in force by product. It names the bundle in force.
    """

    recipes: Mapping[str, RecipeRevision] = field(default_factory=dict)

    @classmethod
    def read(cls, engine: Engine, source: BundleSource) -> StoredState:
        """Read the state from the database.

        Args:
            engine: The database.
            source: Where the bundles come from.

        Raises:
            StoreUnavailable: The database cannot be read.
        """
        versions = {**source.only_versions(), **BundleChoices(engine).newest("active")}
        recipes = current_recipes(engine).items()
        return cls({product: one for product, one in recipes if versions.get(product) == one.bundle_digest[:12]})

    def version(self, product: str) -> str | None:
        """Return the version of the bundle in force of a product; None if it is not known."""
        recipe = self.recipes.get(product)
        return None if recipe is None else recipe.bundle_digest[:12]

    def recipe(self, product: str, digest: Digest) -> RecipeRevision | None:
        """Return the recipe in force of a product if it was made for this bundle; None if it is not known."""
        recipe = self.recipes.get(product)
        return recipe if recipe is not None and recipe.bundle_digest == digest else None
