"""Removals of bundles: their order with the changes that need a bundle, and what is known of removed ones.

A bundle leaves the list in a transaction that checks whether anything needs it. Only then, its files are removed.
Transactions that deploy a bundle, add it to the list or remove it from there hold the bundle's lock, so they follow
each other: a bundle that was removed cannot be deployed, and one that is deployed cannot be removed.

An upload takes longer than a transaction, and passes over files that are in the store already. It compares the number
of removals before the first file and when the bundle is added to the list, so it never lists files that a removal took.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime

from sqlalchemy import Engine, exists, false, select, text, update
from sqlalchemy.orm import Session

from service.store.advisory_locks import bundle_lock
from service.store.audit import Actor
from service.store.bundles.errors import BundleBeingRemoved, BundleRemoved
from service.store.models import BundleRemovalRow, BundleRow
from service.store.session import reading, writing

_ROW = BundleRemovalRow
_IS_LISTED = exists().where(BundleRow.digest == BundleRemovalRow.digest)
_NO_CHANGE = update(BundleRow.__table__).where(false()).values(status="")  # type: ignore[arg-type]  # a Table


def lock_bundles(session: Session, digests: Collection[str]) -> None:
    """Exclude other transactions that deploy, add or remove these bundles until this one ends.

    Args:
        session: An open transaction that has made no statement yet: others wait for its rows in another order.
        digests: The bundles.
    """
    if session.get_bind().dialect.name != "postgresql":
        # SQLite has one writer at a time. A statement that changes nothing takes its lock before anything is read.
        session.execute(_NO_CHANGE)
        return
    # In one order, so that two transactions never wait for each other.
    for number in sorted({bundle_lock(digest) for digest in digests}):
        session.execute(text("SELECT pg_advisory_xact_lock(:number)"), {"number": number})


def require_not_removed(session: Session, product: str, digests: Collection[str]) -> None:
    """Check that none of the bundles was removed, and exclude their removal until the transaction ends.

    Bundles that the bundle store never listed pass.

    Args:
        session: As for `lock_bundles`.
        product: The product.
        digests: The bundles.

    Raises:
        BundleRemoved: One of them was removed.
    """
    if not digests:
        return
    lock_bundles(session, digests)
    row = session.scalars(select(_ROW).where(_ROW.digest.in_(digests), ~_IS_LISTED)).first()
    if row is not None:
        raise BundleRemoved(product, row.digest[:12], row.removed_at, row.removed_by)


def removal_of(engine: Engine, product: str, version: str) -> BundleRemoved | None:
    """Return the error that states when a bundle was removed; None if it is listed, or was never removed.

    Raises:
        StoreUnavailable: The database cannot be read.
    """
    # The digests that begin with the version: every hexadecimal digit comes before `g`.
    named = select(_ROW).where(_ROW.digest.between(version, f"{version}g"), _ROW.product == product, ~_IS_LISTED)
    with reading(engine) as session:
        row = session.scalars(named).first()
        return None if row is None else BundleRemoved(product, version, row.removed_at, row.removed_by)


def removed_keys(engine: Engine) -> set[tuple[str, str]]:
    """Return product and version of every bundle that was removed and not stored again.

    Raises:
        StoreUnavailable: The database cannot be read.
    """
    with reading(engine) as session:
        rows = session.execute(select(_ROW.product, _ROW.digest).where(_ROW.product.is_not(None), ~_IS_LISTED))
        return {(product, digest[:12]) for product, digest in rows if product is not None}


def unfinished_removals(engine: Engine) -> list[str]:
    """Return the digests of the bundles whose files were not removed completely, because a removal was interrupted.

    Raises:
        StoreUnavailable: The database cannot be read.
    """
    with reading(engine) as session:
        return list(session.scalars(select(_ROW.digest).where(_ROW.files_removed_at.is_(None)).order_by(_ROW.digest)))


def count_removals(engine: Engine, digest: str) -> int:
    """Return how often a bundle was removed, before its files are stored.

    Raises:
        BundleBeingRemoved: A removal is in progress, or was interrupted.
        StoreUnavailable: The database cannot be read.
    """
    with reading(engine) as session:
        return _completed_removals(session, digest)


def require_no_removal_since(session: Session, digest: str, removals: int) -> None:
    """Check that a bundle was not removed since its files began to be stored. Excludes a removal until the end.

    Args:
        session: As for `lock_bundles`.
        digest: The bundle.
        removals: What `count_removals` returned before.

    Raises:
        BundleBeingRemoved: It was, so its files may be gone.
    """
    lock_bundles(session, [digest])
    if _completed_removals(session, digest) != removals:
        raise BundleBeingRemoved(digest[:12])


def mark_removal(session: Session, digest: str, product: str | None, actor: Actor) -> None:
    """Note in the transaction that removes a bundle from the list that its files are to be removed next.

    Args:
        session: The transaction.
        digest: The bundle.
        product: Its product; None if it is not known.
        actor: Who removes it.
    """
    row, now = session.get(_ROW, digest), datetime.now(UTC)
    if row is None:
        session.add(
            _ROW(
                digest=digest, product=product, removals=1, removed_at=now, removed_by=actor.name, files_removed_at=None
            )
        )
        return
    row.removals += 1
    row.product = product or row.product
    row.removed_at, row.removed_by, row.files_removed_at = now, actor.name, None


def finish_removal(engine: Engine, digest: str) -> None:
    """Note that the files of a bundle are gone, so that it can be stored again.

    Raises:
        StoreUnavailable: The database cannot store it.
    """
    with writing(engine, "the removal of a bundle cannot be completed") as session:
        session.execute(update(_ROW).where(_ROW.digest == digest).values(files_removed_at=datetime.now(UTC)))


def _completed_removals(session: Session, digest: str) -> int:
    row = session.get(_ROW, digest)
    if row is None:
        return 0
    if row.files_removed_at is None:
        raise BundleBeingRemoved(digest[:12])
    return row.removals
