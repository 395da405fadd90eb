"""The table of the bundles in the bundle store: the list of products and versions of all replicas."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from sqlalchemy import Engine, func, select, update

from service.bundle.bundle import Bundle
from service.bundle.manifest import MANIFEST, Digest, Manifest
from service.store.bundles.errors import BundleRemoved
from service.store.bundles.removals import count_removals, removal_of, removed_keys, require_no_removal_since
from service.store.models import BundleChoiceRow, BundleRow
from service.store.session import reading, retry_conflicts, writing

Status = Literal["available", "damaged"]


@dataclass(frozen=True)
class StoredBundle:
    """A bundle in the bundle store.

    Attributes:
        product: The product.
        digest: SHA-256 (hex) of its manifest.
        manifest_json: The text of its manifest.
        status: Whether its files are what the manifest lists, as far as it is known.
    """

    product: str
    digest: Digest
    manifest_json: str
    status: Status

    @property
    def version(self) -> str:
        """The version: the first twelve hex digits of the digest."""
        return self.digest[:12]

    @property
    def manifest(self) -> Manifest:
        """The manifest. It was valid when the bundle was stored."""
        return Manifest.model_validate_json(self.manifest_json)


class BundleTable:
    """The bundles of a database. Every method raises `StoreUnavailable` if the database cannot be used.

    Args:
        engine: The database.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def products(self) -> set[str]:
        """Return the products that have at least one bundle."""
        with reading(self._engine) as session:
            return set(session.scalars(select(BundleRow.product).distinct()))

    def versions(self, product: str) -> list[str]:
        """Return the versions of a product's bundles, newest first."""
        query = (
            select(BundleRow.version)
            .where(BundleRow.product == product)
            .order_by(BundleRow.created_at.desc(), BundleRow.version)
        )
        with reading(self._engine) as session:
            return list(session.scalars(query))

    def only_versions(self) -> dict[str, str]:
        """Return the version of the bundle of each product that has exactly one. One query for all products."""
        query = select(BundleRow.product, func.min(BundleRow.version))
        with reading(self._engine) as session:
            rows = session.execute(query.group_by(BundleRow.product).having(func.count() == 1))
            return {row[0]: row[1] for row in rows}

    def get(self, product: str, version: str) -> StoredBundle | None:
        """Return one bundle; None if there is no such bundle."""
        query = select(BundleRow).where(BundleRow.product == product, BundleRow.version == version)
        with reading(self._engine) as session:
            row = session.scalars(query).one_or_none()
            return None if row is None else _stored(row)

    def keys(self) -> set[tuple[str, str]]:
        """Return product and version of every bundle."""
        query = select(BundleRow.product, BundleRow.version)
        with reading(self._engine) as session:
            return {(product, version) for product, version in session.execute(query)}

    def removed_keys(self) -> set[tuple[str, str]]:
        """Return product and version of every bundle that was removed and not stored again."""
        return removed_keys(self._engine)

    def removal_of(self, product: str, version: str) -> BundleRemoved | None:
        """Return the error that states when a bundle was removed; None if it was not."""
        return removal_of(self._engine, product, version)

    def count_removals(self, digest: str) -> int:
        """Return how often a bundle was removed, before its files are stored.

        Raises:
            BundleBeingRemoved: A removal is in progress, or was interrupted.
        """
        return count_removals(self._engine, digest)

    def chosen(self) -> set[tuple[str, str]]:
        """Return product and version of every bundle that is the newest choice for its role."""
        newest = select(func.max(BundleChoiceRow.id)).group_by(BundleChoiceRow.product, BundleChoiceRow.role)
        query = select(BundleChoiceRow.product, BundleChoiceRow.bundle_digest).where(BundleChoiceRow.id.in_(newest))
        with reading(self._engine) as session:
            return {(product, digest[:12]) for product, digest in session.execute(query) if digest is not None}

    @staticmethod
    def text_of(bundle: Bundle) -> str:
        """Return the text of a bundle's manifest, which is read from its folder.

        Raises:
            BundleIntegrity: It was changed since the bundle was loaded.
        """
        return bundle.read_file(MANIFEST).decode()

    def add(self, bundle: Bundle, text: str, removals: int = 0) -> bool:
        """Add a bundle whose files are stored, or note that its files are intact again and that it was stored now.

        Args:
            bundle: The bundle.
            text: The text of its manifest.
            removals: What `count_removals` returned before its files were stored.

        Returns:
            Whether it was added.

        Raises:
            BundleBeingRemoved: It was removed meanwhile, so its files may be gone.
        """
        manifest = bundle.manifest

        def write() -> bool:
            with writing(self._engine, "the bundle cannot be registered") as session:
                require_no_removal_since(session, bundle.digest, removals)
                row = session.get(BundleRow, bundle.digest)
                if row is not None:
                    # Who stores it again needs it, so its minimum age for a removal begins again.
                    row.status, row.stored_at = "available", datetime.now(UTC)
                    return False
                session.add(
                    BundleRow(
                        digest=bundle.digest,
                        product=manifest.product,
                        version=bundle.version,
                        status="available",
                        size_bytes=len(text.encode()) + sum(entry.bytes for entry in manifest.files.values()),
                        created_at=manifest.created_at,
                        stored_at=datetime.now(UTC),
                        manifest=text,
                    )
                )
                return True

        return retry_conflicts(write)

    def set_status(self, digest: str, status: Status) -> None:
        """Set the status of a bundle."""
        with writing(self._engine, "the state of the bundle cannot be stored") as session:
            session.execute(update(BundleRow).where(BundleRow.digest == digest).values(status=status))


def _stored(row: BundleRow) -> StoredBundle:
    status: Status = "available" if row.status == "available" else "damaged"
    return StoredBundle(row.product, Digest(row.digest), row.manifest, status)
