"""Recipes: append-only revisions. The newest revision of a product is in force."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from pydantic import ValidationError
from sqlalchemy import Engine, Select, func, select, tuple_
from sqlalchemy.orm import Session

from service.bundle.bundle import Bundle
from service.recipes.recipe import Recipe
from service.recipes.sections import RETENTION_SECTIONS, differences
from service.schemas.common import SYSTEM_AUTHOR
from service.schemas.violations import describe_violations, list_violations
from service.store.audit import Actor, AuditAction, AuditEntry, append_audit
from service.store.errors import RecipeConflict, RecipeUnreadable, UnknownRevision
from service.store.models import RecipeRow
from service.store.records import RecipeDraft, RecipeRevision
from service.store.removal import RemovalEffect, require_confirmed_removal
from service.store.session import reading, retry_conflicts, writing

_ROWS_AT_ONCE = 500


def current_recipe(engine: Engine, product: str) -> RecipeRevision | None:
    """Return the revision in force, or None for a product without a recipe.

    Raises:
        StoreUnavailable: The database cannot be read.
    """
    history = recipe_history(engine, product, limit=1)
    return history[0] if history else None


def current_recipes(engine: Engine) -> dict[str, RecipeRevision]:
    """Return the revision in force by product, without those that cannot be read. One query for all products.

    Raises:
        StoreUnavailable: The database cannot be read.
    """
    newest = select(RecipeRow.product, func.max(RecipeRow.revision)).group_by(RecipeRow.product)
    query = select(RecipeRow).where(tuple_(RecipeRow.product, RecipeRow.revision).in_(newest))
    found: dict[str, RecipeRevision] = {}
    with reading(engine) as session:
        for row in session.scalars(query.execution_options(yield_per=_ROWS_AT_ONCE)):
            with suppress(RecipeUnreadable):  # `current_recipe` says why
                found[row.product] = _revision(row)
    return found


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
    actor: Actor,
    reason: str,
    action: AuditAction = "recipe:put",
    confirm_removal: int | None = None,
    expected_revision: int | None = None,
) -> RecipeRevision:
    """Append a recipe as a new revision, which puts it in force.

    Args:
        engine: The database.
        bundle: The bundle on whose score scale the thresholds are.
        recipe: The recipe.
        actor: Who changes it.
        reason: Why.
        action: What kind of change it is, for the audit log.
        confirm_removal: Number of inspections whose images may be removed because of the change.
        expected_revision: The revision that the change is based on; None to accept any.

    Raises:
        RecipeConflict: Another revision is in force.
        RemovalNotConfirmed: The retention of the recipe would remove more than it keeps.
        StoreUnavailable: The database cannot store it.
    """
    draft = RecipeDraft(bundle.manifest.product, bundle.digest, recipe, actor, reason, action, confirm_removal)

    def write() -> RecipeRevision:
        with writing(engine, "the recipe cannot be stored") as session:
            revision, entries = insert_recipe(session, draft, expected_revision)
            append_audit(session, *entries)
            return revision

    # The constraint on (product, revision) rejects one of two concurrent changes. The retry reads the new current
    # revision, so it finds the conflict if the caller expected a certain one.
    return retry_conflicts(write)


def insert_recipe(
    session: Session, draft: RecipeDraft, expected_revision: int | None = None
) -> tuple[RecipeRevision, list[AuditEntry]]:
    """Insert a recipe as the next revision of its product, inside a transaction of the store.

    Every change of a recipe passes here: it is where retention is guarded and the entries of the audit log are made.

    Args:
        session: An open transaction.
        draft: The recipe.
        expected_revision: The revision that the change is based on; None to accept any.

    Returns:
        The stored revision, and the entries that the caller appends to the audit log as the last statements.

    Raises:
        RecipeConflict: Another revision is in force.
        RemovalNotConfirmed: The retention of the recipe would remove more than it keeps.
    """
    current = session.scalar(_newest_first(draft.product).limit(1))
    revision = 0 if current is None else current.revision
    if expected_revision is not None and revision != expected_revision:
        raise RecipeConflict(draft.product, expected_revision, revision)
    effect = require_confirmed_removal(session, draft, None if current is None else current.recipe)
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
    return _revision(row), _audit_entries(draft, current, row, effect)


def _audit_entries(
    draft: RecipeDraft, old: RecipeRow | None, new: RecipeRow, effect: RemovalEffect
) -> list[AuditEntry]:
    """Return the entry for a change of a recipe, and a second one if it changes how long images are kept."""
    before = {} if old is None else old.recipe
    changed = list(differences(before, new.recipe))
    entry = AuditEntry(
        draft.actor,
        draft.action,
        product=draft.product,
        object=f"revision {new.revision}",
        before=None if old is None else _facts(old, {path: value for path, value, _ in changed}),
        after=_facts(new, {path: value for path, _, value in changed}),
        note=draft.reason,
    )
    policies = [{name: recipe.get(name) for name in RETENTION_SECTIONS} for recipe in (before, new.recipe)]
    if old is None or policies[0] == policies[1]:
        return [entry]
    after = policies[1] | {
        "confirm_removal": draft.confirm_removal,
        # `removed_by_changes` reads these.
        "confirmed": effect.is_confirmed,
        "removed": dict(effect.removed),
    }
    return [entry, replace(entry, action="retention:change", before=policies[0], after=after)]


def _facts(row: RecipeRow, values: Mapping[str, Any]) -> dict[str, Any]:
    return {"revision": row.revision, "bundle_digest": row.bundle_digest, "recipe": values}


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
