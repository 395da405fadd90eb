"""Policy: which recipe is in force for a bundle."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from sqlalchemy import Engine

from service.bundle.bundle import Bundle
from service.deployment.lease import ActiveProduct, Shadow
from service.deployment.registry import Registry
from service.proposals.derive import recipe_of
from service.proposals.errors import ProposalOutdated
from service.recipes.errors import InvalidRecipe
from service.recipes.recipe import Recipe
from service.store.audit import SERVICE, Actor
from service.store.recipes import append_recipe, current_recipe, newest_chosen_revision, newest_revision_for
from service.store.records import RecipeDraft, RecipeRevision, StoredProposal


@dataclass(frozen=True)
class RecipeSources:
    """The stored revisions from which the recipe of a bundle is determined.

    Attributes:
        current: The product's revision in force.
        own: The newest revision that was made for the bundle.
        chosen: The newest revision in which a person set thresholds or rates.
    """

    current: RecipeRevision | None
    own: RecipeRevision | None
    chosen: RecipeRevision | None

    @classmethod
    def read(cls, engine: Engine, bundle: Bundle) -> RecipeSources:
        """Read the revisions from the database.

        Raises:
            StoreUnavailable: The database cannot be read.
        """
        product = bundle.manifest.product
        return cls(
            current=current_recipe(engine, product),
            own=newest_revision_for(engine, product, bundle.digest),
            chosen=newest_chosen_revision(engine, product),
        )

    def after(self, revision: RecipeRevision, bundle: Bundle) -> RecipeSources:
        """Return the sources after a new revision was put in force.

        Args:
            revision: The new revision.
            bundle: The bundle whose recipe is determined.
        """
        return replace(
            self,
            current=revision,
            own=revision if revision.bundle_digest == bundle.digest else self.own,
            chosen=revision if revision.is_chosen else self.chosen,
        )

    def fit(self, bundle: Bundle) -> tuple[Recipe, str]:
        """Return the recipe to serve a bundle with, and the reason for the history.

        Thresholds are levels on one bundle's score scale and have no meaning on another's. A bundle that was served
        before gets its own last thresholds. For another bundle, thresholds are derived from its calibration card: for
        the rates that a person set last if the card can certify them, else the default. All other sections of the
        recipe in force are kept.
        """
        if self.own is not None:
            recipe, reason = self.own.recipe, f"Bundle {bundle.version} serves again: revision {self.own.revision}."
        else:
            recipe, reason = self._derive(bundle)
        if self.current is not None:
            recipe = self.current.recipe.adapted_to(recipe)
        return recipe, reason

    def _derive(self, bundle: Bundle) -> tuple[Recipe, str]:
        scores = bundle.card.scores
        default = Recipe.default(scores)
        if self.current is None:
            return default, "Default of the calibration card."
        change = f"Bundle {bundle.version} replaces {self.current.bundle_digest[:12]}."
        chosen = self.chosen
        rate = None if chosen is None else chosen.recipe.target_false_reject_rate
        if chosen is None or rate is None:
            hand_set = " Thresholds set by hand are not kept." if chosen is not None else ""
            return default, f"{change}{hand_set} Default of the new calibration card."
        try:
            recipe = Recipe.for_rates(scores, rate, chosen.recipe.review_rate, extrapolate=not chosen.recipe.certified)
        except InvalidRecipe as error:
            return default, f"{change} {error.detail} Default of the new calibration card."
        return recipe, f"{change} The rates of revision {chosen.revision}, derived from the new calibration card."


def shadow_recipe(engine: Engine, bundle: Bundle) -> Recipe:
    """Return the recipe of a shadow deployment: what the bundle would be served with if it were activated.

    Raises:
        StoreUnavailable: The database cannot be read.
    """
    recipe, _ = RecipeSources.read(engine, bundle).fit(bundle)
    return recipe


def recipe_in_force(engine: Engine, bundle: Bundle) -> RecipeRevision:
    """Return the recipe that a bundle is served with. Append a revision if the current one is for another bundle.

    Raises:
        StoreUnavailable: The database cannot be used.
    """
    found = draft_recipe(engine, bundle)
    if isinstance(found, RecipeRevision):
        return found
    return append_recipe(engine, bundle, found.recipe, actor=found.actor, reason=found.reason, action=found.action)


def draft_recipe(
    engine: Engine, bundle: Bundle, confirm_removal: int | None = None, actor: Actor = SERVICE
) -> RecipeRevision | RecipeDraft:
    """Return the recipe to serve a bundle with: the current revision, or a draft if a new revision is needed.

    Args:
        engine: The database.
        bundle: The bundle.
        confirm_removal: Number of inspections whose images may be removed because of the change.
        actor: Who causes the change.

    Raises:
        StoreUnavailable: The database cannot be read.
    """
    current = current_recipe(engine, bundle.manifest.product)
    if current is not None and current.bundle_digest == bundle.digest:
        return current
    recipe, reason = RecipeSources.read(engine, bundle).fit(bundle)
    product = bundle.manifest.product
    return RecipeDraft(product, bundle.digest, recipe, actor, reason, "recipe:derive", confirm_removal)


def replace_recipe(
    registry: Registry, engine: Engine, product: str, append: Callable[[ActiveProduct], RecipeRevision]
) -> RecipeRevision:
    """Store a new recipe of a product and put it in force. Its shadow deployment adopts the new rates.

    Args:
        registry: The registry.
        engine: The database.
        product: The product.
        append: Appends the new revision. If it raises, nothing changes.

    Raises:
        UnknownProduct, ProductNotReady, ShuttingDown: As for `Registry.change_recipe`.
        StoreUnavailable: The database cannot be used.
    """

    def store(active: ActiveProduct, shadow: Shadow | None) -> tuple[RecipeRevision, Recipe | None]:
        if shadow is None:
            return append(active), None
        # Read first: after the append, nothing may fail.
        sources = RecipeSources.read(engine, shadow.bundle)
        revision = append(active)
        recipe, _ = sources.after(revision, shadow.bundle).fit(shadow.bundle)
        return revision, recipe

    registry.synchronise(product)
    return registry.change_recipe(product, store)


def reverted_recipe(old: RecipeRevision, bundle: Bundle) -> Recipe:
    """Return the recipe of an old revision, adapted to the active bundle.

    If it was made for another bundle, thresholds are derived again from the calibration card of the active one, and
    values on the other bundle's score scale are reset to their defaults.

    Raises:
        InvalidRecipe: Its thresholds were set by hand for another bundle, or the card cannot certify its rate.
    """
    if old.bundle_digest == bundle.digest:
        return old.recipe
    return old.recipe.adapted_to(old.recipe.rederived(bundle.card.scores))


def proposed_recipe(stored: StoredProposal, bundle: Bundle) -> Recipe:
    """Return the recipe that a stored proposal describes. Its thresholds are derived again from the stored scores.

    Raises:
        ProposalOutdated: Its scores are those of another bundle.
    """
    if stored.proposal.bundle_digest != bundle.digest:
        raise ProposalOutdated(stored.proposal.id, stored.proposal.bundle_digest, bundle.digest)
    certified = stored.proposal.false_reject_rate.certified
    return recipe_of(stored.scores, certified, stored.review_rate, stored.proposal.id)
