"""Recipes: append-only revisions. The newest revision of a product is in force."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from pydantic import ValidationError
from sqlalchemy import Engine, Select, func, select
from sqlalchemy.orm import Session

from service.bundle.bundle import Bundle
from service.recipes.recipe import Recipe
from service.schemas.common import SYSTEM_AUTHOR
from service.schemas.violations import describe_violations, list_violations
from service.store.errors import RecipeConflict, RecipeUnreadable, UnknownRevision
from service.store.models import RecipeRow
from service.store.records import RecipeDraft, RecipeRevision
from service.store.session import reading, retry_conflicts, writing


def current_recipe(engine: Engine, product: str) -> RecipeRevision | None:
    """Return the revision in force, or None for a product without a recipe.

    Raises:
        StoreUnavailable: The database cannot be read.
    """
    history = recipe_history(engine, product, limit=1)
    return history[0] if history else None


def recipe_history(engine: Engine, product: str, *, limit: int = 100) -> Sequence[RecipeRevision]:
    """Return the newest revisions of a product's recipe, newest first.

    Raises:
        StoreUnavailable: The database cannot be read.
    """
    query = select(RecipeRow).where(RecipeRow.product == product).order_by(RecipeRow.revision.desc()).limit(limit)
    with reading(engine) as session:
        return [_revision(row) for row in session.scalars(query)]


def get_recipe(engine: Engine, product: str, revision: int) -> RecipeRevision:
    """Return one revision.

    Raises:
        UnknownRevision: The product's recipe has no such revision.
        StoreUnavailable: The database cannot be read.
    """
    query = select(RecipeRow).where(RecipeRow.product == product, RecipeRow.revision == revision)
    with reading(engine) as session:
        row = session.scalars(query).one_or_none()
        if row is not None:
            return _revision(row)
    raise UnknownRevision(product, revision)


def newest_revision_for(engine: Engine, product: str, bundle_digest: str) -> RecipeRevision | None:
    """Return the newest revision that was made for a bundle, or None.

    Raises:
        StoreUnavailable: The database cannot be read.
    """
    query = _newest_first(product).where(RecipeRow.bundle_digest == bundle_digest).limit(1)
    with reading(engine) as session:
        row = session.scalar(query)
        return None if row is None else _revision(row)


def newest_revisions(engine: Engine) -> dict[str, int]:
    """Return the number of the revision in force of every product that has a recipe.

    Raises:
        StoreUnavailable: The database cannot be read.
    """
    query = select(RecipeRow.product, func.max(RecipeRow.revision)).group_by(RecipeRow.product)
    with reading(engine) as session:
        return dict(session.execute(query).all())


def newest_chosen_revision(engine: Engine, product: str) -> RecipeRevision | None:
    """Return the newest revision in which a person set thresholds or rates, or None.

    Revisions in which a person changed other sections and kept the default thresholds do not count.

    Raises:
        StoreUnavailable: The database cannot be read.
    """
    query = _newest_first(product).where(RecipeRow.author != SYSTEM_AUTHOR)
    with reading(engine) as session:
        revisions = map(_revision, session.scalars(query))
        return next((revision for revision in revisions if revision.is_chosen), None)


def append_recipe(
    engine: Engine,
    bundle: Bundle,
    recipe: Recipe,
    *,
    author: str,
    reason: str,
    expected_revision: int | None = None,
) -> RecipeRevision:
    """Append a recipe as a new revision, which puts it in force.

    Args:
        engine: The database.
        bundle: The bundle on whose score scale the thresholds are.
        recipe: The recipe.
        author: Who changes it.
        reason: Why.
        expected_revision: The revision that the change is based on; None to accept any.

    Raises:
        RecipeConflict: Another revision is in force.
        StoreUnavailable: The database cannot store it.
    """
    draft = RecipeDraft(bundle.manifest.product, bundle.digest, recipe, author, reason)

    def write() -> RecipeRevision:
        with writing(engine, "the recipe cannot be stored") as session:
            return insert_recipe(session, draft, expected_revision)

    # The constraint on (product, revision) rejects one of two concurrent changes. The retry reads the new current
    # revision, so it finds the conflict if the caller expected a certain one.
    return retry_conflicts(write)


def insert_recipe(session: Session, draft: RecipeDraft, expected_revision: int | None = None) -> RecipeRevision:
    """Insert a recipe as the next revision of its product, inside a transaction of the store.

    Args:
        session: An open transaction.
        draft: The recipe.
        expected_revision: The revision that the change is based on; None to accept any.

    Raises:
        RecipeConflict: Another revision is in force.
    """
    newest = select(RecipeRow.revision).where(RecipeRow.product == draft.product)
    revision = session.scalar(newest.order_by(RecipeRow.revision.desc()).limit(1)) or 0
    if expected_revision is not None and revision != expected_revision:
        raise RecipeConflict(draft.product, expected_revision, revision)
    row = RecipeRow(
        product=draft.product,
        revision=revision + 1,
        created_at=datetime.now(UTC),
        author=draft.author,
        reason=draft.reason,
        bundle_digest=draft.bundle_digest,
        recipe=draft.recipe.model_dump(mode="json"),
    )
    session.add(row)
    session.flush()
    return _revision(row)


def _newest_first(product: str) -> Select[RecipeRow]:
    return select(RecipeRow).where(RecipeRow.product == product).order_by(RecipeRow.revision.desc())


def _revision(row: RecipeRow) -> RecipeRevision:
    """Return a row as a record.

    Raises:
        RecipeUnreadable: Another version of the service stored it, in a form that this one does not support.
    """
    try:
        recipe = Recipe.model_validate(row.recipe)
    except ValidationError as error:
        reason = describe_violations(list_violations(error, Recipe)[:1])
        raise RecipeUnreadable(row.product, row.revision, reason) from error
    return RecipeRevision(
        product=row.product,
        revision=row.revision,
        created_at=row.created_at,
        author=row.author,
        reason=row.reason,
        bundle_digest=row.bundle_digest,
        recipe=recipe,
    )
