"""Table of the audit log."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import (
    Index,
    String,
    Text,
)
from sqlalchemy.orm import Mapped, mapped_column

from service.store.models.base import Base


class AuditRow(Base):
    """An entry of the audit log. Append-only: triggers of the database refuse changes."""

    __tablename__ = "audit_log"
    __table_args__ = (Index(None, "product", "id"),)

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    created_at: Mapped[datetime]
    actor_kind: Mapped[str] = mapped_column(String(16))
    actor_id: Mapped[str] = mapped_column(String(64))
    actor: Mapped[str] = mapped_column(String(128))
    address: Mapped[str | None] = mapped_column(String(64))
    request_id: Mapped[str | None] = mapped_column(String(128))
    action: Mapped[str] = mapped_column(String(32))
    product: Mapped[str | None] = mapped_column(String(64))
    object: Mapped[str | None] = mapped_column(String(200))
    before: Mapped[str] = mapped_column(Text)
    """Canonical JSON, `null` if there was nothing before. Text, because the hash covers every character of it."""
    after: Mapped[str] = mapped_column(Text)
    """Canonical JSON, as `before`."""
    note: Mapped[str] = mapped_column(Text)
    previous_hash: Mapped[str] = mapped_column(String(64))
    hash: Mapped[str] = mapped_column(String(64))
