"""Remove bundles that nothing needs any more from the bundle store, and files that no bundle of the list has.

First the row of a bundle is removed, in a transaction that examines again whether anything needs it. From then on it
cannot be listed, deployed or fetched. Then its files are removed. An interrupted removal is completed by the next run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal

from sqlalchemy import Engine

from service.store.advisory_locks import job_lock
from service.store.audit import Actor, AuditEntry, append_audit
from service.store.bundles.objects import BundleObjects
from service.store.bundles.references import (
    ListedBundle,
    Reason,
    is_judged_since,
    judged_bundles,
    listed_bundles,
    newest_inspection,
    reasons_to_keep,
)
from service.store.bundles.removals import lock_bundles, mark_removal, unfinished_removals
from service.store.database import sqlite_path
from service.store.errors import BundleStoreUnavailable, StoreUnavailable
from service.store.leases import Leases
from service.store.lock import FileLock
from service.store.models import BundleRemovalRow, BundleRow
from service.store.schema import programs_without
from service.store.session import querying, reading, writing

ORPHAN_AGE = timedelta(days=1)
"""Age of the newest file from which files without a row count as left behind. Uploads in progress are younger."""
_JOB = "bundle prune"
_OLDEST_PROGRAMS = "0022_bundle_removals"
"""Programs that lack this migration deploy and store bundles without excluding removals."""


@dataclass(frozen=True)
class Unneeded:
    """What can be removed of the bundles in the list.

    Attributes:
        bundles: The bundles that nothing needs, by product and from the oldest to the newest.
        kept: Number of the others, by the first reason.
        limit: Bundles that were made, stored or deployed after this time are kept.
        newest_inspection: The inspection up to which inspections were read.
    """

    bundles: tuple[ListedBundle, ...]
    kept: Mapping[Reason, int]
    limit: datetime
    newest_inspection: str


@dataclass(frozen=True)
class Orphan:
    """The files of a bundle that the list does not contain.

    Attributes:
        digest: The digest that its folder has as its name.
        modified_at: When the newest of its files was written; None if it has none, or it is not known.
        size_bytes: Size of its files.
        is_removal: Whether an interrupted removal left them behind.
    """

    digest: str
    modified_at: datetime | None
    size_bytes: int
    is_removal: bool


def find_unneeded(engine: Engine, limit: datetime, product: str | None = None) -> Unneeded:
    """Return the bundles of the list that nothing needs. If there are any by other reasons, all inspections are read.

    Args:
        engine: The database.
        limit: Bundles that were made, stored or deployed after this time are kept.
        product: Only bundles of a product; None for all.

    Raises:
        StoreUnavailable: The database cannot be read.
    """
    newest = newest_inspection(engine)
    with reading(engine) as session:
        bundles = listed_bundles(session, product)
        kept = reasons_to_keep(session, bundles, limit, product)
    if len(kept) < len(bundles):
        judged = judged_bundles(engine, product)
        kept |= {one.digest: "inspection" for one in bundles if one.digest in judged and one.digest not in kept}
    unneeded = tuple(one for one in bundles if one.digest not in kept)
    return Unneeded(unneeded, Counter(kept.values()), limit, newest)


def unlist(engine: Engine, bundle: ListedBundle, found: Unneeded, actor: Actor) -> Reason | Literal["removed", "gone"]:
    """Remove a bundle from the list, unless something needs it now. Its files are to be removed next.

    Args:
        engine: The database.
        bundle: The bundle.
        found: What it was found in.
        actor: Who removes it.

    Returns:
        `removed`; `gone` if it was not in the list any more; otherwise, why it is kept.

    Raises:
        StoreUnavailable: The database cannot be used. Nothing was changed.
    """
    with writing(engine, "the bundle cannot be removed") as session:
        lock_bundles(session, [bundle.digest])
        present = listed_bundles(session, bundle.product, bundle.digest)
        if not present:
            return "gone"
        kept = reasons_to_keep(session, present, found.limit, bundle.product)
        if bundle.digest in kept:
            return kept[bundle.digest]
        if is_judged_since(session, bundle, found.newest_inspection):
            return "inspection"
        session.delete(session.get_one(BundleRow, bundle.digest))
        mark_removal(session, bundle.digest, bundle.product, actor)
        session.flush()
        before = {
            "bundle_digest": bundle.digest,
            "created_at": bundle.created_at.isoformat(),
            "size_bytes": bundle.size_bytes,
        }
        append_audit(session, AuditEntry(actor, "bundle:remove", bundle.product, bundle.version, before))
        return "removed"


def find_orphans(engine: Engine, objects: BundleObjects, now: datetime) -> Iterator[Orphan]:
    """Yield the files that no bundle of the list has: what interrupted removals and uploads left behind.

    Of other files than those of interrupted removals, those are left out of which one was written within `ORPHAN_AGE`,
    or whose time the file system does not state.

    Args:
        engine: The database.
        objects: The bundle store.
        now: The present time.

    Raises:
        BundleStoreUnavailable: The files cannot be listed.
        StoreUnavailable: The database cannot be read.
    """
    unfinished = unfinished_removals(engine)
    stored = objects.digests()
    with reading(engine) as session:  # after the files were listed: a bundle is added after its files
        listed = {one.digest for one in listed_bundles(session)}
    for digest in sorted((stored | set(unfinished)) - listed):
        files = objects.files(digest)
        times = [file.modified_at for file in files if file.modified_at is not None]
        newest, is_removal = max(times, default=None), digest in unfinished
        is_dated = newest is not None and len(times) == len(files)
        if is_removal or (is_dated and newest is not None and now - newest >= ORPHAN_AGE):
            yield Orphan(digest, newest, sum(file.size for file in files), is_removal)


def claim_orphan(engine: Engine, orphan: Orphan, actor: Actor) -> bool:
    """Note that the files of an orphan are to be removed next, unless they belong to a bundle of the list now.

    Args:
        engine: The database.
        orphan: The orphan.
        actor: Who removes it.

    Returns:
        Whether they are to be removed.

    Raises:
        StoreUnavailable: The database cannot be used. Nothing was changed.
    """
    with writing(engine, "the files of a bundle cannot be removed") as session:
        lock_bundles(session, [orphan.digest])
        if session.get(BundleRow, orphan.digest) is not None:
            return False
        row = session.get(BundleRemovalRow, orphan.digest)
        if row is not None and row.files_removed_at is None:
            return True  # its removal is in the audit log
        mark_removal(session, orphan.digest, None, actor)
        session.flush()
        before = {"bundle_digest": orphan.digest, "size_bytes": orphan.size_bytes, "is_listed": False}
        append_audit(session, AuditEntry(actor, "bundle:remove", None, orphan.digest[:12], before))
        return True


class Pruning:
    """The right to remove bundles, which one process of the database has at a time.

    Otherwise, one could remove the files of a bundle that was stored again after another one had completed its removal.
    """

    def __init__(self, leases: Leases) -> None:
        self._leases = leases

    def require(self) -> None:
        """Check that this process still has the right, before each removal.

        Raises:
            StoreUnavailable: The session at the database was lost.
        """
        if not self._leases.hold([_JOB]):
            raise StoreUnavailable("the connection to the database was lost", remedy="Run the command again.")


@contextmanager
def pruning(engine: Engine) -> Iterator[Pruning]:
    """Acquire the right to remove bundles for the block.

    Raises:
        BundleStoreUnavailable: Another process removes bundles, or a process of an older version uses the database.
        StoreUnavailable: The database cannot be used.
    """
    path, lock = sqlite_path(str(engine.url)), None
    if path is not None:
        lock = _lock_file(path.with_name(f"{path.name}.prune-lock"))
    else:
        _require_no_older_programs(engine)
    leases = Leases(engine, job_lock)
    try:
        if not leases.hold([_JOB]):
            raise _busy()
        yield Pruning(leases)
    finally:
        leases.release()
        if lock is not None:
            lock.release()


def _lock_file(path: Path) -> FileLock:
    try:
        return FileLock(path, "the removal of bundles")
    except StoreUnavailable as error:
        raise _busy() from error
    except OSError as error:
        raise StoreUnavailable(f"{path} cannot be created ({error.strerror})") from error


def _busy() -> BundleStoreUnavailable:
    return BundleStoreUnavailable(
        "another process removes bundles at this moment", remedy="Wait until it has ended. Nothing was removed."
    )


def _require_no_older_programs(engine: Engine) -> None:
    with querying(engine) as connection:
        older = programs_without(connection, _OLDEST_PROGRAMS)
    if older:
        raise BundleStoreUnavailable(
            "its database is used by a process of an older version of Plumbline (its newest migration is "
            f"{', '.join(sorted(older))}), which could activate a bundle while it is removed",
            remedy="Nothing was removed. Complete the upgrade of all replicas, then run the command again.",
        )
