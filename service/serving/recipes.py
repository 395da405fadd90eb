"""Recipes of products: read them, change them, import them from files, and revert to earlier revisions.

A change is validated against the bundle that is active, stored as a new revision and put in force as one step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import structlog

from service.deployment.lease import ActiveProduct
from service.deployment.recipes import proposed_recipe, replace_recipe, reverted_recipe
from service.deployment.registry import Registry
from service.recipes.contradictions import require_consistent
from service.recipes.recipe import Recipe, parse_recipe
from service.recipes.sections import differences
from service.recipes.toml_file import RecipeFile, imported_recipe
from service.schemas.recipe import RecipeChange, RecipeEdit, RecipeRevert, Signature
from service.store.audit import Actor, AuditAction
from service.store.proposals import get_proposal
from service.store.recipes import append_recipe, get_recipe, recipe_history
from service.store.records import RecipeRevision
from service.store.store import Store

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class RevisionDifferences:
    """The differences between two revisions of a recipe.

    Attributes:
        before: The first revision.
        after: The second revision.
        values: Dotted path, value in the first and value in the second revision.
    """

    before: RecipeRevision
    after: RecipeRevision
    values: Sequence[tuple[str, Any, Any]]


@dataclass(frozen=True)
class _Request:
    """What all requested changes of a recipe have in common."""

    action: AuditAction
    actor: Actor
    confirm_removal: int | None
    expected_revision: int | None


class RecipeService:
    """Reads and changes recipes. All methods but `current` block and must not be called from the event loop.

    Args:
        registry: Products and the bundles that serve them.
        store: Stores revisions and proposals.
    """

    def __init__(self, registry: Registry, store: Store) -> None:
        self._registry = registry
        self._store = store

    def current(self, product: str) -> RecipeRevision:
        """Return the recipe in force, also if another process that shares the database changed it a moment ago.

        Raises:
            UnknownProduct, ProductNotReady: No bundle serves this product.
            StoreUnavailable: The database is shared and cannot be read.
        """
        self._registry.synchronise(product)
        return self._registry.get(product).recipe

    def history(self, product: str, limit: int) -> Sequence[RecipeRevision]:
        """Return the newest revisions, newest first.

        Raises:
            UnknownProduct: There is no such product.
            StoreUnavailable: The database cannot be used.
        """
        self._registry.products.look_up(product)
        return recipe_history(self._store.engine, product, limit=limit)

    def revision(self, product: str, number: int) -> RecipeRevision:
        """Return one revision.

        Raises:
            UnknownProduct, UnknownRevision: It does not exist.
            StoreUnavailable: The database cannot be used.
        """
        self._registry.products.look_up(product)
        return get_recipe(self._store.engine, product, number)

    def compare(self, product: str, before: int, after: int) -> RevisionDifferences:
        """Return the values that differ between two revisions.

        Raises:
            UnknownProduct, UnknownRevision: One of them does not exist.
            StoreUnavailable: The database cannot be used.
        """
        old, new = self.revision(product, before), self.revision(product, after)
        found = differences(old.recipe.model_dump(mode="json"), new.recipe.model_dump(mode="json"))
        return RevisionDifferences(old, new, list(found))

    def propose(self, product: str, edit: RecipeEdit) -> tuple[ActiveProduct, Recipe]:
        """Return bundle and recipe in force, and the recipe that a change would put in force. Nothing is stored.

        Args:
            product: Name of the product.
            edit: The values to change.

        Raises:
            PlumblineError: See `change`.
        """
        self._registry.synchronise(product)
        active = self._registry.get(product)
        recipe = self._changed(edit, active)
        _require_consistent(recipe, active)
        return active, recipe

    def change(self, product: str, change: RecipeChange, actor: Actor, expected_revision: int | None) -> RecipeRevision:
        """Put a changed recipe in force from the next inspection on.

        Args:
            product: Name of the product.
            change: The values to change, with the reason. Its author counts only without authentication.
            actor: Who changes the recipe.
            expected_revision: The revision that the change was made against; None accepts any.

        Raises:
            UnknownProduct, ProductNotReady: No bundle serves this product.
            InvalidRecipe: The resulting recipe is not valid, or the calibration card cannot certify the rate.
            UnknownProposal, ProposalOutdated: The proposal does not exist or was made for another bundle.
            RecipeConflict: The current revision is not the expected one.
            RemovalNotConfirmed: The retention of the recipe would remove more than it keeps.
            StoreUnavailable: The database cannot be used; the old recipe stays in force.
        """
        action: AuditAction = "recipe:put" if change.proposal_id is None else "proposal:apply"
        request = _Request(action, actor.signed(change.author), change.confirm_removal, expected_revision)
        return self._put(product, lambda active: (self._changed(change, active), change.reason), request)

    def import_file(
        self,
        product: str,
        file: RecipeFile,
        signature: Signature,
        actor: Actor,
        expected_revision: int | None,
        confirm_removal: int | None = None,
    ) -> RecipeRevision:
        """Put the recipe of a file in force from the next inspection on.

        Args:
            product: Name of the product.
            file: The file.
            signature: The reason, and the author, which counts only without authentication.
            actor: Who imports the file.
            expected_revision: The revision that the change was made against; None accepts any.
            confirm_removal: Number of inspections whose images may be removed because of the change.

        Raises:
            PlumblineError: See `change`.
        """
        request = _Request("recipe:import", actor.signed(signature.author), confirm_removal, expected_revision)
        return self._put(product, lambda active: (self._imported(file, active), signature.reason), request)

    def revert(
        self, product: str, number: int, revert: RecipeRevert, actor: Actor, expected_revision: int | None
    ) -> RecipeRevision:
        """Put the values of an earlier revision in force again, as a new revision.

        Args:
            product: Name of the product.
            number: The earlier revision.
            revert: The reason, if one was given. Its author counts only without authentication.
            actor: Who reverts.
            expected_revision: The revision that the change was made against; None accepts any.

        Raises:
            UnknownRevision: The earlier revision does not exist.
            PlumblineError: See `change`.
        """
        old = self.revision(product, number)

        def make(active: ActiveProduct) -> tuple[Recipe, str]:
            is_derived = old.bundle_digest != active.bundle.digest
            what = f"Revert to revision {number}"
            what += f", derived for bundle {active.bundle.version}" if is_derived else ""
            what += f": {revert.reason}" if revert.reason else "."
            return reverted_recipe(old, active.bundle), what

        request = _Request("recipe:revert", actor.signed(revert.author), revert.confirm_removal, expected_revision)
        return self._put(product, make, request)

    def _put(
        self, product: str, make: Callable[[ActiveProduct], tuple[Recipe, str]], request: _Request
    ) -> RecipeRevision:
        """Build a recipe for the active bundle, validate it, store it and put it in force as one step."""
        changed: list[str] = []

        def store(active: ActiveProduct) -> RecipeRevision:
            recipe, reason = make(active)
            _require_consistent(recipe, active)
            before, after = active.recipe.recipe.model_dump(mode="json"), recipe.model_dump(mode="json")
            changed.extend(path for path, _, _ in differences(before, after))
            if request.action == "recipe:import" and _is_same(recipe, active, request.expected_revision):
                return active.recipe
            return append_recipe(
                self._store.engine,
                active.bundle,
                recipe,
                actor=request.actor,
                reason=reason,
                action=request.action,
                confirm_removal=request.confirm_removal,
                expected_revision=request.expected_revision,
            )

        revision = replace_recipe(self._registry, self._store.engine, product, store)
        if request.action == "recipe:import" and not changed:
            return revision
        log.info(
            "recipe changed",
            product=product,
            revision=revision.revision,
            author=revision.author,
            reason=revision.reason,
            changed=changed,
        )
        return revision

    def _changed(self, change: RecipeEdit, active: ActiveProduct) -> Recipe:
        thresholds: Recipe | None = None
        if change.target_false_reject_rate is not None:
            thresholds = Recipe.for_rates(
                active.bundle.card.scores,
                change.target_false_reject_rate,
                change.review_rate,
                extrapolate=change.extrapolate,
            )
        elif change.proposal_id is not None:
            thresholds = self._proposed(active, change.proposal_id)
        elif change.fail_threshold is not None:
            thresholds = parse_recipe(change.model_dump(include={"fail_threshold", "review_threshold"}))
        return active.recipe.recipe.changed(change.parts(), thresholds)

    def _imported(self, file: RecipeFile, active: ActiveProduct) -> Recipe:
        def proposed(proposal_id: str) -> Recipe:
            return self._proposed(active, proposal_id)

        return imported_recipe(file, active.bundle, active.recipe.recipe, proposed)

    def _proposed(self, active: ActiveProduct, proposal_id: str) -> Recipe:
        stored = get_proposal(self._store.engine, active.bundle.manifest.product, proposal_id)
        return proposed_recipe(stored, active.bundle)


def _is_same(recipe: Recipe, active: ActiveProduct, expected_revision: int | None) -> bool:
    """Return whether a recipe is the one in force, so that a new revision of it would only repeat it."""
    current = active.recipe
    is_expected = expected_revision is None or expected_revision == current.revision
    return is_expected and recipe == current.recipe and current.bundle_digest == active.bundle.digest


def _require_consistent(recipe: Recipe, active: ActiveProduct) -> None:
    """Refuse a recipe whose values contradict each other together with the defaults of the active bundle."""
    scale = active.rules.heatmap_scale(recipe.thresholds, recipe.heatmap.low, recipe.heatmap.high)
    require_consistent(recipe, active.rules.quality_limits, (scale.low, scale.high))
