"""Tables of recipes, threshold proposals and bundle choices."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import (
    Index,
    String,
    UniqueConstraint,
)
from sqlalchemy.orm import Mapped, mapped_column

from service.store.models.base import Base


class RecipeRow(Base):
    """One revision of a product's recipe. Append-only."""

    __tablename__ = "recipes"
    __table_args__ = (UniqueConstraint("product", "revision"),)

    id: Mapped[int] = mapped_column(primary_key=True, init=False)
    product: Mapped[str] = mapped_column(String(64))
    revision: Mapped[int]
    created_at: Mapped[datetime]
    author: Mapped[str] = mapped_column(String(128))
    reason: Mapped[str] = mapped_column(String(1000))
    bundle_digest: Mapped[str] = mapped_column(String(64))
    """The bundle on whose score scale the thresholds are. Scores of other bundles are not comparable."""
    recipe: Mapped[dict[str, Any]]


class ProposalRow(Base):
    """A threshold proposal with the scores that it was derived from. Append-only."""

    __tablename__ = "proposals"
    __table_args__ = (Index(None, "product", "id"),)

    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    product: Mapped[str] = mapped_column(String(64))
    bundle_digest: Mapped[str] = mapped_column(String(64))
    scores: Mapped[list[float]]
    """Scores of the good images, ascending: the reference for p-values once the proposal is applied."""
    review_rate: Mapped[float | None]
    """The requested review rate; None for the default."""
    proposal: Mapped[dict[str, Any]]


class BundleChoiceRow(Base):
    """A choice of a product's active or shadow bundle. Append-only; the newest row of a role is in force."""

    __tablename__ = "bundle_choices"
    __table_args__ = (Index(None, "product", "role", "id"),)

    id: Mapped[int] = mapped_column(primary_key=True, init=False)
    product: Mapped[str] = mapped_column(String(64))
    role: Mapped[str] = mapped_column(String(16))
    """The role: "active" or "shadow"."""
    created_at: Mapped[datetime]
    author: Mapped[str] = mapped_column(String(128))
    reason: Mapped[str] = mapped_column(String(1000))
    bundle_digest: Mapped[str | None] = mapped_column(String(64))
    """The bundle; None if no bundle has the role from this choice on."""
    returns_to: Mapped[int | None]
    """The choice that a roll-back returns to. A second roll-back follows the link of that choice, so it goes back one
    bundle further and never returns to the bundle that was just rolled back.
    """
