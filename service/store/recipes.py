"""Recipes: append-only revisions, one of them in force per product."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import Engine, select
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.orm import Session

from service.bundle import Bundle
from service.errors import InvalidRecipe
from service.recipe import Recipe
from service.store.errors import RecipeConflict, StoreUnavailable, UnknownRevision
from service.store.models import RecipeRow

SYSTEM_AUTHOR = "plumbline"
_ATTEMPTS = 50  # each failed one means that somebody else got through


@dataclass(frozen=True)
class RecipeRevision:
    """A recipe with its history: who put it in force, when and why, and for which bundle."""

    product: str
    revision: int
    created_at: datetime
    author: str
    reason: str
    bundle_digest: str
    recipe: Recipe


def current_recipe(engine: Engine, product: str) -> RecipeRevision | None:
    """The newest revision, None for a product that never had one.

    Raises:
        StoreUnavailable: The database does not answer.
    """
    history = recipe_history(engine, product, limit=1)
    return history[0] if history else None


def recipe_history(engine: Engine, product: str, *, limit: int = 100) -> Sequence[RecipeRevision]:
    """The newest revisions of a product's recipe, newest first.

    Raises:
        StoreUnavailable: The database does not answer.
    """
    query = select(RecipeRow).where(RecipeRow.product == product).order_by(RecipeRow.revision.desc()).limit(limit)
    try:
        with Session(engine) as session:
            return [_revision(row) for row in session.scalars(query)]
    except SQLAlchemyError as error:
        raise StoreUnavailable(f"the database does not answer ({error.__cause__ or error})") from error


def get_recipe(engine: Engine, product: str, revision: int) -> RecipeRevision:
    """One revision.

    Raises:
        UnknownRevision: The product's recipe never had it.
        StoreUnavailable: The database does not answer.
    """
    query = select(RecipeRow).where(RecipeRow.product == product, RecipeRow.revision == revision)
    try:
        with Session(engine) as session:
            row = session.scalars(query).one_or_none()
            if row is not None:
                return _revision(row)
    except SQLAlchemyError as error:
        raise StoreUnavailable(f"the database does not answer ({error.__cause__ or error})") from error
    raise UnknownRevision(product, revision)


def append_recipe(
    engine: Engine,
    bundle: Bundle,
    recipe: Recipe,
    *,
    author: str,
    reason: str,
    expected_revision: int | None = None,
) -> RecipeRevision:
    """Put a recipe in force as a new revision.

    Args:
        engine: The database.
        bundle: The bundle whose score scale the thresholds are on.
        recipe: What is to apply.
        author: Who changes it.
        reason: Why.
        expected_revision: The revision that the change was made against; None takes whatever is current.

    Raises:
        RecipeConflict: The current revision is another one.
        StoreUnavailable: The database does not take it.
    """
    product = bundle.manifest.product
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            with Session(engine) as session, session.begin():
                newest = select(RecipeRow.revision).where(RecipeRow.product == product)
                revision = session.scalar(newest.order_by(RecipeRow.revision.desc()).limit(1)) or 0
                if expected_revision is not None and revision != expected_revision:
                    raise RecipeConflict(product, expected_revision, revision)
                row = RecipeRow(
                    product=product,
                    revision=revision + 1,
                    created_at=datetime.now(UTC),
                    author=author,
                    reason=reason,
                    bundle_digest=bundle.digest,
                    recipe=recipe.model_dump(mode="json"),
                )
                session.add(row)
                session.flush()
                return _revision(row)
        except IntegrityError as error:
            # Two changes at the same moment: the unique (product, revision) let one of them in. The other is
            # tried against what is current now, where a conflict is found if the caller asked for that.
            if attempt == _ATTEMPTS:
                raise StoreUnavailable("too many recipe changes at the same time") from error
        except SQLAlchemyError as error:
            reason_text = f"the database did not take the recipe ({error.__cause__ or error})"
            raise StoreUnavailable(reason_text) from error
    raise AssertionError("unreachable")


def recipe_again(old: RecipeRevision, bundle: Bundle) -> Recipe:
    """The recipe of an old revision, for the bundle that serves now.

    Where it was made for another bundle, its thresholds are derived again from this bundle's calibration card, and what
    lies on the other bundle's scale goes back to its default.

    Raises:
        InvalidRecipe: Its thresholds were set by hand for another bundle, or this one's card cannot certify its rate.
    """
    if old.bundle_digest == bundle.digest:
        return old.recipe
    return old.recipe.moved_to(old.recipe.derived_again(bundle.card.scores))


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
    try:
        with Session(engine) as session:
            of_product = select(RecipeRow).where(RecipeRow.product == product).order_by(RecipeRow.revision.desc())
            own = session.scalar(of_product.where(RecipeRow.bundle_digest == bundle.digest).limit(1))
            by_people = map(_revision, session.scalars(of_product.where(RecipeRow.author != SYSTEM_AUTHOR)))
            # Who changed something else left the thresholds as they were, which is no choice of a rate.
            chosen = next((item for item in by_people if item.recipe.derivation != "default"), None)
            own_revision = None if own is None else _revision(own)
    except SQLAlchemyError as error:
        raise StoreUnavailable(f"the recipe of {product!r} cannot be read ({error.__cause__ or error})") from error
    if own_revision is not None:
        recipe, reason = own_revision.recipe, f"Bundle {bundle.version} serves again: revision {own_revision.revision}."
    else:
        recipe, reason = _derive(current, chosen, bundle)
    if current is not None:
        recipe = current.recipe.moved_to(recipe)
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


def _revision(row: RecipeRow) -> RecipeRevision:
    return RecipeRevision(
        product=row.product,
        revision=row.revision,
        created_at=row.created_at,
        author=row.author,
        reason=row.reason,
        bundle_digest=row.bundle_digest,
        recipe=Recipe.model_validate(row.recipe),
    )
