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
    """

    product: str
    removable: tuple[str, ...] = ()
    kept: Mapping[KeptReason, int] = field(default_factory=Counter)
    newest: datetime | None = None


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
        oldest_message = session.scalar(select(func.min(OutboxRow.created_at)))
    while True:
        with reading(engine) as session:
            rows = session.execute(following).all()
            if not rows:
                return
            last = rows[-1]
            needed: set[str] = set()
            # Without an index of inspections, the outbox is only read where it has messages of this time.
            if oldest_message is not None and oldest_message <= last.created_at:
                ids = [item.id for item in rows]
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
        )
        if len(rows) < size:
            return
        # Both conditions read the index from this time on; several records may have the same time.
        is_later = or_(row.created_at > last.created_at, row.id > last.id)
        following = query.where(row.created_at >= last.created_at, is_later)


def remove_piece(engine: Engine, piece: Piece, exclusive: Exclusive | None = None) -> int:
    """Remove the records of a piece that can be removed, and the verdicts of shadow bundles on them.

    A record that was reviewed since the piece was read is kept.

    Args:
        engine: The database.
        piece: The piece.
        exclusive: Delays the commits of inspections meanwhile; see `GroupWriter.between_commits`. None for PostgreSQL,
            and in another process.

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
            removed = _delete(connection, piece.removable)
            if removed:
                _count(connection, piece.product, removed, until)
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
        _run_pragmas(connection, "wal_checkpoint(PASSIVE)", f"wal_autocheckpoint={_SQLITE_AUTOCHECKPOINT}")


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


def _delete(connection: Connection, ids: Sequence[str]) -> int:
    if connection.dialect.name == "postgresql":
        # A review that is being stored holds a lock on its inspection. Afterwards, no review can begin.
        locked = select(InspectionRow.id).where(InspectionRow.id.in_(ids)).order_by(InspectionRow.id)
        ids = connection.scalars(locked.with_for_update(skip_locked=True)).all()
    return connection.execute(
        delete(InspectionRow).where(
            InspectionRow.id.in_(ids), InspectionRow.artefacts_removed_at.is_not(None), ~_IS_REVIEWED
        )
    ).rowcount


def _count(connection: Connection, product: str, removed: int, until: datetime) -> None:
    row = RecordRemovalRow
    moment = literal(until, UtcDateTime())
    is_sqlite = connection.dialect.name == "sqlite"
    later = (func.max if is_sqlite else func.greatest)(row.removed_until, moment)
    changed = connection.execute(
        update(row).where(row.product == product).values(removed=row.removed + removed, removed_until=later)
    )
    if not changed.rowcount:
        values = {"product": product, "removed": removed, "removed_until": until, "audited": 0}
        connection.execute(insert(row).values(**values))
