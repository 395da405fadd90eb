"""Table that states which programs can work with the schema."""

from __future__ import annotations

from sqlalchemy import String
from sqlalchemy.orm import Mapped, mapped_column

from service.store.models.base import Base


class SchemaCompatibilityRow(Base):
    """The oldest programs that can work with the schema. There is one row, which migrations write."""

    __tablename__ = "schema_compatibility"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    oldest_revision: Mapped[str] = mapped_column(String(32))
    """A program can work with the schema if it has this migration, even if it lacks later ones."""
