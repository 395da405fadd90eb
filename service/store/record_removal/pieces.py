"""Old records of inspections in small pieces: which of them can be removed, and their removal.

A piece is read without a lock and removed in a short transaction, which checks again what may have changed meanwhile.
Records are read in the order of their time. Those that are kept are passed over, so that they are read once per run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
    delete,
    exists,
    func,
    insert,
    literal,
    literal_column,
    or_,
    select,
    update,
)
from sqlalchemy.orm import Session

from service.record_days import KeptReason
from service.store.models import (
    DriftPositionRow,
    IdempotencyRow,
    InspectionRow,
    OutboxRow,
    RecordRemovalRow,
    ReviewRow,
    UtcDateTime,
)
from service.store.session import connected, reading, retry_conflicts

Exclusive = Callable[[], AbstractContextManager[None]]
"""Returns a context that excludes commits of inspections."""
SQLITE_PIECE, POSTGRESQL_PIECE = 50, 500
"""Records per transaction. With SQLite, it bounds how long the commit of an inspection can wait for it."""
PAUSE_FACTOR = 4.0
"""Length of the pause after a transaction, relative to the transaction."""
_SQLITE_AUTOCHECKPOINT = 1000  # pages, the default of SQLite
_IS_REVIEWED = exists().where(ReviewRow.inspection_id == InspectionRow.id)


@dataclass(frozen=True)
class Piece:
    """Some old records of a product, the oldest after those of the piece before.

    Attributes:
        product: The product.
        removable: Ids of those that can be removed.
        kept: Number of the others, by the reason. A record with several reasons counts once, for the first of
            `KeptReason`.
        newest: Time of the newest one that can be removed; None if there is none.
        oldest: Time of the oldest one that can be removed; None if there is none.
        has_messages: Whether messages of the outbox may concern these records, or older ones.
    """

    product: str
    removable: tuple[str, ...] = ()
    kept: Mapping[KeptReason, int] = field(default_factory=Counter)
    newest: datetime | None = None
    oldest: datetime | None = None
    has_messages: bool = False


def stored_products(engine: Engine) -> list[str]:
    """Return the products of all stored inspections, also those that the model repository no longer holds.

    Raises:
        StoreUnavailable: The database cannot be read.
    """
    found: list[str] = []
    with reading(engine) as session:
        # One step in the index per product.
        smallest = select(func.min(InspectionRow.product))
        product = session.scalar(smallest)
        while product is not None:
            found.append(product)
            product = session.scalar(smallest.where(InspectionRow.product > product))
    return found


def oldest_record(engine: Engine, product: str) -> datetime | None:
    """Return the time of the oldest stored inspection of a product; None if there is none.

    Raises:
        StoreUnavailable: The database cannot be read.
    """
    with reading(engine) as session:
        return session.scalar(select(func.min(InspectionRow.created_at)).where(InspectionRow.product == product))


def has_record_between(engine: Engine, product: str, since: datetime, until: datetime) -> bool:
    """Return whether an inspection of a product from a period is stored.

    Raises:
        StoreUnavailable: The database cannot be read.
    """
    row = InspectionRow
    with reading(engine) as session:
        found = select(row.id).where(row.product == product, row.created_at.between(since, until)).limit(1)
        return session.scalar(found) is not None


def old_records(engine: Engine, product: str, limit: datetime, size: int | None = None) -> Iterator[Piece]:
    """Yield the records of a product from before a time, the oldest first, in pieces.

    Records that are removed meanwhile do not disturb it.

    Args:
        engine: The database.
        product: The product.
        limit: Only records from before this time.
        size: Most records of a piece; None for the size that suits the database.

    Raises:
        StoreUnavailable: The database cannot be read.
    """
    row, is_sqlite = InspectionRow, engine.dialect.name == "sqlite"
    size = size or (SQLITE_PIECE if is_sqlite else POSTGRESQL_PIECE)
    is_stored = row.artefacts_removed_at.is_(None).label("is_stored")
    query = select(row.id, row.created_at, is_stored, _IS_REVIEWED.label("is_reviewed"))
    query = query.where(row.product == product, row.created_at < limit).order_by(row.created_at, row.id).limit(size)
    following = query
    with reading(engine) as session:
        # Of ids, because the time of a message that is sent again is a later one.
        first_needed = session.scalar(select(func.min(OutboxRow.inspection_id)))
    while True:
        with reading(engine) as session:
            rows = session.execute(following).all()
            if not rows:
                return
            last = rows[-1]
            needed: set[str] = set()
            ids = [item.id for item in rows]
            # Without an index of inspections, the outbox is only read where it has messages of these ids or older ones.
            has_messages = first_needed is not None and first_needed <= max(ids)
            if has_messages:
                needed = set(session.scalars(select(OutboxRow.inspection_id).where(OutboxRow.inspection_id.in_(ids))))
            newest, counted = _bounds(session)
        reasons: dict[str, KeptReason] = {}
        for item in rows:
            if item.is_stored:
                reasons[item.id] = "image"
            elif item.is_reviewed:
                reasons[item.id] = "review"
            elif item.id in needed:
                reasons[item.id] = "message"
            elif counted is not None and item.id > counted:
                reasons[item.id] = "drift"
            elif item.id in newest:
                reasons[item.id] = "newest"
        free = [item for item in rows if item.id not in reasons]
        yield Piece(
            product,
            tuple(item.id for item in free),
            Counter(reasons.values()),
            free[-1].created_at if free else None,
            free[0].created_at if free else None,
            has_messages,
        )
        if len(rows) < size:
            return
        # Both conditions read the index from this time on; several records may have the same time.
        is_later = or_(row.created_at > last.created_at, row.id > last.id)
        following = query.where(row.created_at >= last.created_at, is_later)


def remove_piece(engine: Engine, piece: Piece, exclusive: Exclusive | None = None, *, is_stated: bool = False) -> int:
    """Remove the records of a piece that can be removed, their idempotency keys and verdicts of shadow bundles.

    A record that was reviewed since the piece was read is kept.

    Args:
        engine: The database.
        piece: The piece.
        exclusive: Delays the commits of inspections meanwhile; see `GroupWriter.between_commits`. None for PostgreSQL,
            and in another process.
        is_stated: Whether the caller states the number in the audit log, with `state_removal`; otherwise the service
            does, with `audit_removals`.

    Returns:
        Number of records that were removed.

    Raises:
        StoreUnavailable: Nothing was removed.
    """
    until = piece.newest
    if until is None:
        return 0

    def remove() -> int:
        with (
            connected(engine, "old records cannot be removed") as connection,
            _checkpoint_afterwards(connection),
            (exclusive or nullcontext)(),
            connection.begin(),
        ):
            removed = _delete(connection, piece)
            if removed:
                _count(connection, piece.product, removed, until, audited=removed if is_stated else 0)
            return removed

    # A command and the service may both remove the first records of a product.
    return retry_conflicts(remove)


@contextmanager
def _checkpoint_afterwards(connection: Connection) -> Iterator[None]:
    """Copy SQLite's write-ahead log into the database after the block, not in the commit, for which inspections wait.

    A removal changes many pages, so the log often is long enough for that. Copying does not delay other commits.
    """
    if connection.dialect.name != "sqlite":
        yield
        return
    _run_pragmas(connection, "wal_autocheckpoint=0")
    try:
        yield
    finally:
        # The setting first: the checkpoint may fail, and the connection returns to the pool in any case.
        _run_pragmas(connection, f"wal_autocheckpoint={_SQLITE_AUTOCHECKPOINT}", "wal_checkpoint(PASSIVE)")


def _run_pragmas(connection: Connection, *pragmas: str) -> None:
    for pragma in pragmas:
        connection.exec_driver_sql(f"PRAGMA {pragma}").close()
    connection.rollback()  # of the transaction that the connection began on its own; a pragma is in none


def _bounds(session: Session) -> tuple[set[str], str | None]:
    """Return the newest inspections, and up to which one drift monitoring has counted; None if it does not monitor.

    The newest one is always kept: SQLite gives the number of its row, by which `service.store.inspection_feed` orders
    inspections, to the next inspection if it is removed.
    """
    newest = {session.scalar(select(func.max(InspectionRow.id)))}
    if session.get_bind().dialect.name == "sqlite":
        rowid: ColumnElement[int] = literal_column("inspections.rowid")
        newest.add(session.scalar(select(InspectionRow.id).order_by(rowid.desc()).limit(1)))
    return {name for name in newest if name is not None}, session.scalar(select(DriftPositionRow.inspection_id))


def _delete(connection: Connection, piece: Piece) -> int:
    ids: Sequence[str] = piece.removable
    if connection.dialect.name == "postgresql":
        # A review that is being stored holds a lock on its inspection. Afterwards, no review can begin.
        locked = select(InspectionRow.id).where(InspectionRow.id.in_(ids)).order_by(InspectionRow.id)
        ids = connection.scalars(locked.with_for_update(skip_locked=True)).all()
    change = delete(InspectionRow).where(
        InspectionRow.id.in_(ids), InspectionRow.artefacts_removed_at.is_not(None), ~_IS_REVIEWED
    )
    if piece.has_messages:
        needed = select(OutboxRow.inspection_id).where(OutboxRow.inspection_id.in_(ids))
        change = change.where(InspectionRow.id.not_in(needed))
    removed = connection.scalars(change.returning(InspectionRow.id)).all()
    if removed:
        # A key must not name an inspection that is gone. A key has the time of its inspection, which has an index.
        is_of_time = IdempotencyRow.created_at.between(piece.oldest, piece.newest)
        connection.execute(delete(IdempotencyRow).where(is_of_time, IdempotencyRow.inspection_id.in_(removed)))
    return len(removed)


def _count(connection: Connection, product: str, removed: int, until: datetime, *, audited: int) -> None:
    row = RecordRemovalRow
    moment = literal(until, UtcDateTime())
    is_sqlite = connection.dialect.name == "sqlite"
    later = (func.max if is_sqlite else func.greatest)(row.removed_until, moment)
    counts = {"removed": row.removed + removed, "audited": row.audited + audited, "removed_until": later}
    changed = connection.execute(update(row).where(row.product == product).values(**counts))
    if not changed.rowcount:
        values = {"product": product, "removed": removed, "removed_until": until, "audited": audited}
        connection.execute(insert(row).values(**values))
