"""Bundle choices: a list per product and role, to which choices are appended. The newest choice is in force."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

from sqlalchemy import Engine, delete, func, select
from sqlalchemy.orm import Session

from service.store.audit import SERVICE, AuditEntry, append_audit
from service.store.bundles.removals import require_not_removed
from service.store.models import BundleChoiceRow
from service.store.recipes import insert_recipe
from service.store.records import BundleChoice, ChoiceDraft, RecipeDraft, RecipeRevision, Role
from service.store.session import reading, retry_conflicts, writing

LINEAGE = 3
"""Choices of active bundles that a start may return to: the newest, the one that a roll-back returns to, and so on."""


class BundleChoices:
    """The bundle choices of a database.

    Every method raises `StoreUnavailable` if the database cannot be used.

    Args:
        engine: The database.
        in_store: Whether the bundles are in the bundle store. A model repository may have bundles that were removed
            from a bundle store that was used before.
    """

    def __init__(self, engine: Engine, *, in_store: bool = True) -> None:
        self._engine = engine
        self._in_store = in_store

    def current(self, product: str, role: Role) -> BundleChoice | None:
        """Return the choice in force, or None if there was never a choice."""
        history = self.history(product, role, limit=1)
        return history[0] if history else None

    def newest(self, role: Role) -> dict[str, str | None]:
        """Return the version of the newest choice of a role, by product; None if no bundle has the role any more.

        One query, whatever the number of products. Products without a choice are left out.
        """
        newest = select(func.max(BundleChoiceRow.id)).where(BundleChoiceRow.role == role)
        query = select(BundleChoiceRow.product, BundleChoiceRow.bundle_digest).where(
            BundleChoiceRow.id.in_(newest.group_by(BundleChoiceRow.product))
        )
        with reading(self._engine) as session:
            rows = session.execute(query)
            return {product: None if digest is None else digest[:12] for product, digest in rows}

    def versions(self, role: Role) -> dict[str, str]:
        """Return the version that has a role now, by product. One query, whatever the number of products."""
        return {product: version for product, version in self.newest(role).items() if version is not None}

    def history(self, product: str, role: Role, *, limit: int = 100) -> Sequence[BundleChoice]:
        """Return the newest choices, newest first."""
        query = (
            select(BundleChoiceRow)
            .where(BundleChoiceRow.product == product, BundleChoiceRow.role == role)
            .order_by(BundleChoiceRow.id.desc())
            .limit(limit)
        )
        with reading(self._engine) as session:
            return [_choice(row) for row in session.scalars(query)]

    def latest_version(self, product: str, role: Role) -> str | None:
        """Return the version that has the role or had it last, or None if no bundle ever had it."""
        return next((choice.version for choice in self.history(product, role, limit=2) if choice.version), None)

    def lineage(self, product: str, *, limit: int = LINEAGE) -> Sequence[BundleChoice]:
        """Return the choice of the active bundle, the choice that a roll-back returns to, and so on."""
        choice = self.current(product, "active")
        found: list[BundleChoice] = []
        while choice is not None and len(found) < limit:
            found.append(choice)
            choice = None if choice.returns_to is None else self.get(choice.returns_to)
        return found

    def get(self, choice_id: int) -> BundleChoice:
        """Return the choice with this id, as found in `BundleChoice.returns_to`."""
        with reading(self._engine) as session:
            return _choice(session.get_one(BundleChoiceRow, choice_id))

    def append(self, draft: ChoiceDraft) -> BundleChoice:
        """Append a choice. It is durable when this method returns.

        Raises:
            BundleRemoved: The bundle was removed from the bundle store.
        """
        with writing(self._engine, "the choice of a bundle cannot be stored") as session:
            self._require_not_removed(session, draft)
            choice, entry = _insert(session, draft)
            append_audit(session, entry)
            return choice

    def withdraw(self, choice: BundleChoice) -> None:
        """Remove a choice that never had an effect, because the change that it belongs to failed afterwards."""
        with writing(self._engine, "the choice of a bundle cannot be removed") as session:
            session.execute(delete(BundleChoiceRow).where(BundleChoiceRow.id == choice.id))
            before = {"role": choice.role, "bundle_digest": choice.bundle_digest}
            entry = AuditEntry(SERVICE, "bundle:withdraw", choice.product, choice.version, before, note=choice.reason)
            append_audit(session, entry)

    def append_with_recipe(
        self, drafts: Sequence[ChoiceDraft], recipe: RecipeDraft | None, predecessor: ChoiceDraft | None = None
    ) -> tuple[Sequence[BundleChoice], RecipeRevision | None]:
        """Append choices, and optionally a recipe revision, in one transaction.

        Args:
            drafts: The choices.
            recipe: The recipe that is put in force together with them; None to append no revision.
            predecessor: A choice to append before them, which a roll-back from the first draft returns to.

        Returns:
            The stored choices in the given order, and the stored revision if there is one.

        Raises:
            BundleRemoved: One of the bundles was removed from the bundle store.
        """

        def write() -> tuple[Sequence[BundleChoice], RecipeRevision | None]:
            with writing(self._engine, "the choice of a bundle cannot be stored") as session:
                self._require_not_removed(session, *drafts, *(() if predecessor is None else (predecessor,)))
                revision, entries = (None, []) if recipe is None else insert_recipe(session, recipe)
                first, *others = drafts
                if predecessor is not None:
                    choice, entry = _insert(session, predecessor)
                    entries.append(entry)
                    first = replace(first, returns_to=choice.id)
                inserted = [_insert(session, draft) for draft in (first, *others)]
                append_audit(session, *entries, *(entry for _, entry in inserted))
                return [choice for choice, _ in inserted], revision

        return retry_conflicts(write)

    def _require_not_removed(self, session: Session, first: ChoiceDraft, *others: ChoiceDraft) -> None:
        if self._in_store:
            digests = {draft.bundle_digest for draft in (first, *others)}
            require_not_removed(session, first.product, [digest for digest in digests if digest is not None])


def _insert(session: Session, draft: ChoiceDraft) -> tuple[BundleChoice, AuditEntry]:
    """Insert a choice; return it and the entry for the audit log, which is to be appended at the end."""
    before = session.execute(
        select(BundleChoiceRow.bundle_digest)
        .where(BundleChoiceRow.product == draft.product, BundleChoiceRow.role == draft.role)
        .order_by(BundleChoiceRow.id.desc())
        .limit(1)
    ).scalar()
    row = BundleChoiceRow(
        product=draft.product,
        role=draft.role,
        created_at=datetime.now(UTC),
        author=draft.actor.name,
        reason=draft.reason,
        bundle_digest=draft.bundle_digest,
        returns_to=draft.returns_to,
    )
    session.add(row)
    session.flush()
    choice = _choice(row)
    entry = AuditEntry(
        draft.actor,
        draft.action,
        product=draft.product,
        object=choice.version or (None if before is None else before[:12]),
        before={"role": draft.role, "bundle_digest": before},
        after={"role": draft.role, "bundle_digest": draft.bundle_digest},
        note=draft.reason,
    )
    return choice, entry


def _choice(row: BundleChoiceRow) -> BundleChoice:
    return BundleChoice(
        id=row.id,
        product=row.product,
        role=row.role,  # type: ignore[arg-type]  # only this module writes it
        created_at=row.created_at,
        author=row.author,
        reason=row.reason,
        bundle_digest=row.bundle_digest,
        returns_to=row.returns_to,
    )
