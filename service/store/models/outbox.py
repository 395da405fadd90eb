"""Table of the outbox."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import (
    BigInteger,
    Index,
    Integer,
    String,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from service.store.models.base import Base

_PENDING = text("dead_at IS NULL")
_DEAD = text("dead_at IS NOT NULL")


class OutboxRow(Base):
    """A message to a sink that is not delivered yet, or a dead letter. Delivered messages are deleted.

    The inspection is not a foreign key: if its record were removed, a cascade would silently remove the message.
    """

    __tablename__ = "outbox"
    __table_args__ = (
        Index("ix_outbox_pending", "sink", "product", "id", sqlite_where=_PENDING, postgresql_where=_PENDING),
        Index("ix_outbox_dead", "sink", "id", sqlite_where=_DEAD, postgresql_where=_DEAD),
        # Without it, SQLite would give the number of a deleted message to a new one.
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(BigInteger().with_variant(Integer(), "sqlite"), primary_key=True, init=False)
    """Messages of one product and sink are delivered in the order of their ids."""
    sink: Mapped[str] = mapped_column(String(64))
    product: Mapped[str] = mapped_column(String(64))
    inspection_id: Mapped[str] = mapped_column(String(36))
    event_id: Mapped[str] = mapped_column(String(36))
    """The same for every attempt and every sink, so that receivers can detect duplicates."""
    created_at: Mapped[datetime]
    attempts: Mapped[int] = mapped_column(default=0)
    rejections: Mapped[int] = mapped_column(default=0)
    """Attempts that the receiver answered with an error; only these count towards the limit of attempts."""
    next_attempt_at: Mapped[datetime | None] = mapped_column(default=None)
    last_error: Mapped[str | None] = mapped_column(String(500), default=None)
    dead_at: Mapped[datetime | None] = mapped_column(default=None)
    """When the message became a dead letter; None as long as it is pending."""
    dead_reason: Mapped[str | None] = mapped_column(String(16), default=None)
