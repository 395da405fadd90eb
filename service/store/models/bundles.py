"""Tables of the bundles in the bundle store, and of those that were removed from it."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import BigInteger, Index, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from service.store.models.base import Base


class BundleRow(Base):
    """A bundle in the bundle store. Its row is added after its files were stored and verified."""

    __tablename__ = "bundles"
    __table_args__ = (UniqueConstraint("product", "version"), Index(None, "product", "created_at"))

    digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    product: Mapped[str] = mapped_column(String(64))
    version: Mapped[str] = mapped_column(String(12))
    status: Mapped[str] = mapped_column(String(16))
    """`available`, or `damaged` if a file in the store was not the one that the manifest lists."""
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[datetime]
    """When the bundle was made."""
    stored_at: Mapped[datetime]
    """When its files were stored last."""
    manifest: Mapped[str] = mapped_column(Text)
    """The text of `manifest.json`. Its SHA-256 is the digest."""


class BundleRemovalRow(Base):
    """A bundle that was removed from the bundle store. Its row is added in the transaction that removes the bundle's.

    It stays when the bundle is stored again, so that an upload that began before a removal notices it.
    """

    __tablename__ = "bundle_removals"

    digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    product: Mapped[str | None] = mapped_column(String(64))
    """None for files that no row of `bundles` listed."""
    removals: Mapped[int]
    """How often it was removed."""
    removed_at: Mapped[datetime]
    removed_by: Mapped[str] = mapped_column(String(128))
    files_removed_at: Mapped[datetime | None]
    """When its last file was removed; None as long as there may be some."""
