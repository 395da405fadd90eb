"""Tables of reviews and labels."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import (
    ForeignKey,
    Index,
    String,
)
from sqlalchemy.orm import Mapped, mapped_column

from service.store.models.base import Base


class ReviewRow(Base):
    """A review of an inspection by a person, or the withdrawal of one. Append-only."""

    __tablename__ = "reviews"
    __table_args__ = (
        Index(None, "inspection_id", "id"),
        Index(None, "product", "id"),
        Index(None, "product", "reviewer", "inspection_id"),
    )

    id: Mapped[int] = mapped_column(primary_key=True, init=False)
    inspection_id: Mapped[str] = mapped_column(String(36), ForeignKey("inspections.id", ondelete="CASCADE"))
    product: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[datetime]
    reviewer: Mapped[str] = mapped_column(String(128))
    label: Mapped[str | None] = mapped_column(String(16))
    """None for a withdrawal."""
    kind: Mapped[str | None] = mapped_column(String(128))
    note: Mapped[str | None] = mapped_column(String(1000))
    withdraws: Mapped[int | None] = mapped_column(unique=True)
    """The review of the same reviewer that is withdrawn; None for a review."""


class InspectionLabelRow(Base):
    """The label of an inspection. It follows from the reviews and is stored so that lists can be filtered by it."""

    __tablename__ = "inspection_labels"
    __table_args__ = (Index(None, "label", "inspection_id"), Index(None, "product", "label", "inspection_id"))

    inspection_id: Mapped[str] = mapped_column(
        String(36), ForeignKey("inspections.id", ondelete="CASCADE"), primary_key=True
    )
    product: Mapped[str] = mapped_column(String(64))
    label: Mapped[str] = mapped_column(String(16))
    kind: Mapped[str | None] = mapped_column(String(128))
