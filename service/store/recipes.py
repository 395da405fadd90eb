"""Recipes: append-only revisions, one of them in force per product."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import Engine, Select, select
from sqlalchemy.exc import IntegrityError

from service.bundle.bundle import Bundle
from service.recipes.recipe import Recipe
from service.schemas.common import SYSTEM_AUTHOR
from service.store.errors import RecipeConflict, StoreUnavailable, UnknownRevision
from service.store.models import RecipeRow
from service.store.session import reading, writing

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
    with reading(engine) as session:
        return [_revision(row) for row in session.scalars(query)]


def get_recipe(engine: Engine, product: str, revision: int) -> RecipeRevision:
    """One revision.

    Raises:
        UnknownRevision: The product's recipe never had it.
        StoreUnavailable: The database does not answer.
    """
    query = select(RecipeRow).where(RecipeRow.product == product, RecipeRow.revision == revision)
    with reading(engine) as session:
        row = session.scalars(query).one_or_none()
        if row is not None:
            return _revision(row)
    raise UnknownRevision(product, revision)


def newest_revision_for(engine: Engine, product: str, bundle_digest: str) -> RecipeRevision | None:
    """The newest revision that was made for a bundle, None where there is none.

    Raises:
        StoreUnavailable: The database does not answer.
    """
    query = _newest_first(product).where(RecipeRow.bundle_digest == bundle_digest).limit(1)
    with reading(engine) as session:
        row = session.scalar(query)
        return None if row is None else _revision(row)


def newest_chosen_revision(engine: Engine, product: str) -> RecipeRevision | None:
    """The newest revision in which a person chose thresholds or rates, None where nobody did.

    A person who changed something else left the thresholds as they were, which is no choice of a rate.

    Raises:
        StoreUnavailable: The database does not answer.
    """
    query = _newest_first(product).where(RecipeRow.author != SYSTEM_AUTHOR)
    with reading(engine) as session:
        revisions = map(_revision, session.scalars(query))
        return next((revision for revision in revisions if revision.recipe.derivation != "default"), None)


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
            with writing(engine, "the database did not take the recipe") as session:
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
        except StoreUnavailable as error:
            if not isinstance(error.__cause__, IntegrityError):
                raise
            # Two changes at the same moment: the unique (product, revision) let one of them in. The other is
            # tried against what is current now, where a conflict is found if the caller asked for that.
            if attempt == _ATTEMPTS:
                raise StoreUnavailable("too many recipe changes at the same time") from error
    raise AssertionError("unreachable")


def _newest_first(product: str) -> Select[RecipeRow]:
    return select(RecipeRow).where(RecipeRow.product == product).order_by(RecipeRow.revision.desc())


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
