"""Table of the records of inspections that were removed."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import BigInteger, String
from sqlalchemy.orm import Mapped, mapped_column

from service.store.models.base import Base


class RecordRemovalRow(Base):
    """How many records of a product were removed, and up to which time. Changed with each removal."""

    __tablename__ = "record_removals"

    product: Mapped[str] = mapped_column(String(64), primary_key=True)
    removed_until: Mapped[datetime]
    """Time of the newest record that was removed."""
    removed: Mapped[int] = mapped_column(BigInteger)
    """Number of records that were removed."""
    audited: Mapped[int] = mapped_column(BigInteger)
    """Number of them that entries of the audit log state."""
