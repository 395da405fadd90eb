"""Which bundle of a product decides and which one watches: an append-only list of choices, the newest in force."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from sqlalchemy import Engine, select

from service.store.models import BundleChoiceRow
from service.store.session import reading, writing

Role = Literal["active", "shadow"]


@dataclass(frozen=True)
class BundleChoice:
    """Who gave a bundle its role, when and why.

    Attributes:
        bundle_digest: None where from then on no bundle has the role.
        returns_to: Id of the choice that a roll-back returns to, None where there is none.
    """

    id: int
    product: str
    role: Role
    created_at: datetime
    author: str
    reason: str
    bundle_digest: str | None
    returns_to: int | None

    @property
    def version(self) -> str | None:
        return None if self.bundle_digest is None else self.bundle_digest[:12]


class BundleChoices:
    """The choices that a database holds.

    Every method raises StoreUnavailable where the database does not answer.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def current(self, product: str, role: Role) -> BundleChoice | None:
        """The choice in force, None where nobody ever chose."""
        history = self.history(product, role, limit=1)
        return history[0] if history else None

    def history(self, product: str, role: Role, *, limit: int = 100) -> Sequence[BundleChoice]:
        """The newest choices, newest first."""
        query = (
            select(BundleChoiceRow)
            .where(BundleChoiceRow.product == product, BundleChoiceRow.role == role)
            .order_by(BundleChoiceRow.id.desc())
            .limit(limit)
        )
        with reading(self._engine) as session:
            return [_choice(row) for row in session.scalars(query)]

    def latest_version(self, product: str, role: Role) -> str | None:
        """The version that has the role, or had it last; None where none ever did."""
        return next((choice.version for choice in self.history(product, role, limit=2) if choice.version), None)

    def lineage(self, product: str, *, limit: int = 3) -> Sequence[BundleChoice]:
        """The active bundle's choice, the one that a roll-back returns to, and so on."""
        choice = self.current(product, "active")
        found: list[BundleChoice] = []
        while choice is not None and len(found) < limit:
            found.append(choice)
            choice = None if choice.returns_to is None else self.get(choice.returns_to)
        return found

    def get(self, choice_id: int) -> BundleChoice:
        """One choice, by the id that another one returns to."""
        with reading(self._engine) as session:
            return _choice(session.get_one(BundleChoiceRow, choice_id))

    def append(
        self,
        product: str,
        role: Role,
        bundle_digest: str | None,
        *,
        author: str,
        reason: str,
        returns_to: int | None = None,
    ) -> BundleChoice:
        """Put a choice in force. It is on the disk when this returns."""
        row = BundleChoiceRow(
            product=product,
            role=role,
            created_at=datetime.now(UTC),
            author=author,
            reason=reason,
            bundle_digest=bundle_digest,
            returns_to=returns_to,
        )
        with writing(self._engine, "the database did not take the choice of a bundle") as session:
            session.add(row)
            session.flush()
            return _choice(row)


def _choice(row: BundleChoiceRow) -> BundleChoice:
    return BundleChoice(
        id=row.id,
        product=row.product,
        role=row.role,  # type: ignore[arg-type]  # written by this class only
        created_at=row.created_at,
        author=row.author,
        reason=row.reason,
        bundle_digest=row.bundle_digest,
        returns_to=row.returns_to,
    )
