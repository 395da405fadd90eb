"""Tables of drift: the monitored streams, the alarms, and the position of the monitor."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    Index,
    Integer,
    String,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from service.store.models.base import Base

_OPEN = text("acknowledged_at IS NULL AND ended_at IS NULL")


class DriftPositionRow(Base):
    """Up to which inspection the streams are computed. There is one row."""

    __tablename__ = "drift_position"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    inspection_id: Mapped[str] = mapped_column(String(36))


class DriftStreamRow(Base):
    """A stream: what is monitored of a product or of a station."""

    __tablename__ = "drift_streams"

    product: Mapped[str] = mapped_column(String(64), primary_key=True)
    station: Mapped[str] = mapped_column(String(128), primary_key=True)
    """Empty for the product as a whole."""
    kind: Mapped[str] = mapped_column(String(16), primary_key=True)
    reference: Mapped[str] = mapped_column(String(64))
    """Identifies what the stream is compared with; another one starts it anew."""
    recipe_revision: Mapped[int]
    source: Mapped[str] = mapped_column(String(16))
    reference_count: Mapped[int]
    state: Mapped[str] = mapped_column(String(16))
    started_at: Mapped[datetime]
    count: Mapped[int] = mapped_column(BigInteger)
    evidence: Mapped[float]
    direction: Mapped[str | None] = mapped_column(String(16))
    onset_at: Mapped[datetime | None]
    alarm_id: Mapped[int | None] = mapped_column(BigInteger)
    reference_values: Mapped[dict[str, Any]]
    """What does not change with every inspection."""
    progress: Mapped[dict[str, Any]]
    """Everything else that the computation continues with."""
    history: Mapped[dict[str, Any]]


class DriftAlarmRow(Base):
    """An alarm. It is open until it is acknowledged or another reference ends it."""

    __tablename__ = "drift_alarms"
    __table_args__ = (
        Index(None, "product", "id"),
        Index("ix_drift_alarms_open", "id", sqlite_where=_OPEN, postgresql_where=_OPEN),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(BigInteger().with_variant(Integer(), "sqlite"), primary_key=True, init=False)
    product: Mapped[str] = mapped_column(String(64))
    station: Mapped[str] = mapped_column(String(128))
    """Empty for the product as a whole."""
    kind: Mapped[str] = mapped_column(String(16))
    direction: Mapped[str | None] = mapped_column(String(16))
    reference: Mapped[str] = mapped_column(String(64))
    recipe_revision: Mapped[int]
    raised_at: Mapped[datetime]
    onset_at: Mapped[datetime | None]
    evidence: Mapped[float]
    suspends: Mapped[bool]
    acknowledged_at: Mapped[datetime | None] = mapped_column(default=None)
    acknowledged_by: Mapped[str | None] = mapped_column(String(128), default=None)
    reason: Mapped[str | None] = mapped_column(String(1000), default=None)
    ended_at: Mapped[datetime | None] = mapped_column(default=None)
