"""Which recipe is in force for a bundle."""

from __future__ import annotations

from sqlalchemy import Engine

from service.bundle.bundle import Bundle
from service.recipes.errors import InvalidRecipe
from service.recipes.recipe import Recipe
from service.schemas.common import SYSTEM_AUTHOR
from service.store.recipes import (
    RecipeRevision,
    append_recipe,
    current_recipe,
    newest_chosen_revision,
    newest_revision_for,
)


def recipe_again(old: RecipeRevision, bundle: Bundle) -> Recipe:
    """The recipe of an old revision, for the bundle that serves now.

    Where it was made for another bundle, its thresholds are derived again from this bundle's calibration card, and what
    lies on the other bundle's scale goes back to its default.

    Raises:
        InvalidRecipe: Its thresholds were set by hand for another bundle, or this one's card cannot certify its rate.
    """
    if old.bundle_digest == bundle.digest:
        return old.recipe
    return old.recipe.adapted_to(old.recipe.rederived(bundle.card.scores))


def recipe_in_force(engine: Engine, bundle: Bundle) -> RecipeRevision:
    """The recipe that a bundle is served with; a new revision is appended where none fits it.

    Thresholds are levels on one bundle's score scale and mean nothing on another's. So a recipe that was
    made for another bundle is derived again from this bundle's calibration card: for the false-reject rate
    that a person stated last where this card can certify it, else the default. A bundle that comes back gets its own
    last thresholds back. Whatever is not on a bundle's scale stays as it is. The history says so.

    Raises:
        StoreUnavailable: The database does not answer.
    """
    current = current_recipe(engine, bundle.manifest.product)
    if current is not None and current.bundle_digest == bundle.digest:
        return current
    recipe, reason = fitting_recipe(engine, bundle)
    return append_recipe(engine, bundle, recipe, author=SYSTEM_AUTHOR, reason=reason)


def fitting_recipe(engine: Engine, bundle: Bundle) -> tuple[Recipe, str]:
    """The recipe that a bundle would be served with, as `recipe_in_force` says, and why; nothing is put in force.

    Raises:
        StoreUnavailable: The database does not answer.
    """
    product = bundle.manifest.product
    current = current_recipe(engine, product)
    own_revision = newest_revision_for(engine, product, bundle.digest)
    chosen = newest_chosen_revision(engine, product)
    if own_revision is not None:
        recipe, reason = own_revision.recipe, f"Bundle {bundle.version} serves again: revision {own_revision.revision}."
    else:
        recipe, reason = _derive(current, chosen, bundle)
    if current is not None:
        recipe = current.recipe.adapted_to(recipe)
    return recipe, reason


def _derive(current: RecipeRevision | None, chosen: RecipeRevision | None, bundle: Bundle) -> tuple[Recipe, str]:
    """A recipe for a bundle that never had one: the rates that a person chose last, else the default."""
    scores = bundle.card.scores
    default = Recipe.default(scores)
    if current is None:
        return default, "Default of the calibration card."
    change = f"Bundle {bundle.version} replaces {current.bundle_digest[:12]}."
    rate = None if chosen is None else chosen.recipe.target_false_reject_rate
    if chosen is None or rate is None:
        hand_set = " Thresholds set by hand do not carry over." if chosen is not None else ""
        return default, f"{change}{hand_set} Default of the new calibration card."
    try:
        recipe = Recipe.for_rates(scores, rate, chosen.recipe.review_rate, extrapolate=not chosen.recipe.certified)
    except InvalidRecipe as error:
        return default, f"{change} {error.detail} Default of the new calibration card."
    return recipe, f"{change} The rates of revision {chosen.revision}, derived from the new calibration card."
