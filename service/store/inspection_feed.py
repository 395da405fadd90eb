"""Stored inspections in the order in which they were committed, with cursors that lose none and repeat none.

Ids do not give this order: an id is assigned before the graph runs, and several inspections, also of several processes,
are committed in another order. Each database has an order of its own, which costs nothing when an inspection is stored:

- SQLite has one writer at a time, and numbers the rows of a table as they are inserted.
- PostgreSQL keeps the transaction of each row, and a snapshot states which transactions had been committed at a moment.
  What became visible between two snapshots was committed between them.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from typing import Any, Protocol
from uuid import UUID

from sqlalchemy import ColumnElement, Engine, Row, Select, func, literal_column, select, text

from service.errors import InvalidRequest
from service.store.inspection_filter import InspectionFilter
from service.store.models import InspectionRow
from service.store.session import querying

MAX_CURSOR = 4096
"""Longest cursor, in characters."""
_TABLE = InspectionRow.__table__
_KEYS = (_TABLE.c.id, _TABLE.c.product, _TABLE.c.station, _TABLE.c.decision)
_START = "0"
_SNAPSHOT = r"\d{1,19}:\d{1,19}:(?:\d{1,19}(?:,\d{1,19})*)?"
_POSTGRESQL = re.compile(rf"([0-9a-f-]{{36}}|{_START})~({_SNAPSHOT})~({_SNAPSHOT})~(\d{{1,15}})", re.ASCII)
_NOTHING = "1:1:"
"""A snapshot in which no transaction is visible."""


class Mark(Protocol):
    """A position between two inspections, in the order of their commits."""

    @property
    def cursor(self) -> str:
        """The position as a text without line breaks, which is valid in all processes of the database."""


@dataclass(frozen=True)
class Entry:
    """An inspection in the order of the commits.

    Attributes:
        id: Id of the inspection.
        product: Its product.
        station: Its station; None without.
        decision: Its decision.
        mark: The position behind it.
    """

    id: str
    product: str
    station: str | None
    decision: str
    mark: Mark

    def matches(self, which: InspectionFilter) -> bool:
        """Return whether the conditions on product, station and decision hold. Others are not examined."""
        values = which.values
        return all(
            (given := values[name]) is None or value in given
            for name, value in (("product", self.product), ("station", self.station), ("decision", self.decision))
        )


class InspectionFeed(Protocol):
    """Reads inspections in the order of their commits. Every method raises `StoreUnavailable` if the database fails."""

    def head(self) -> Mark:
        """Return the position behind everything that is committed now."""

    def find(self, cursor: str) -> Mark:
        """Return the position of a cursor, or of an inspection id.

        Raises:
            InvalidRequest: It is neither.
        """

    def read(self, after: Mark, until: Mark, limit: int) -> list[Entry]:
        """Return the inspections between two positions, the earliest first.

        Args:
            after: Only inspections behind this position.
            until: Only inspections before this position, which was returned by `head`.
            limit: Most inspections. If fewer are returned, there are no others.
        """


def open_feed(engine: Engine, late_s: float) -> InspectionFeed:
    """Return the feed of a database.

    Args:
        engine: The database.
        late_s: Longest time from the assignment of an id to its commit, including the difference between the clocks of
            several machines, in seconds. PostgreSQL examines the ids of this time.
    """
    if engine.dialect.name == "sqlite":
        return _SqliteFeed(engine)
    return _PostgresqlFeed(engine, late_s)


def _invalid(cursor: str) -> InvalidRequest:
    return InvalidRequest(
        f"{cursor[:80]!r} is not a cursor of this stream. Send the last `id` that the stream sent, or the id of an "
        "inspection."
    )


def _inspection_id(text: str) -> str:
    try:
        return str(UUID(text))
    except ValueError as error:
        raise _invalid(text) from error


@dataclass(frozen=True)
class _RowMark:
    rowid: int
    cursor: str


class _SqliteFeed:
    """The cursor is the id of the last inspection; the number of its row gives its place in the order."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._rowid: ColumnElement[int] = literal_column("inspections.rowid")

    def head(self) -> Mark:
        newest = select(self._rowid, _TABLE.c.id).order_by(self._rowid.desc()).limit(1)
        return self._mark(newest)

    def find(self, cursor: str) -> Mark:
        name = cursor.partition("~")[0]
        if name == _START:
            return _RowMark(0, _START)
        # If the inspection does not exist, because a backup was restored, the one before it takes its place.
        upto = select(self._rowid, _TABLE.c.id).where(_TABLE.c.id <= _inspection_id(name))
        return self._mark(upto.order_by(_TABLE.c.id.desc()).limit(1))

    def read(self, after: Mark, until: Mark, limit: int) -> list[Entry]:
        assert isinstance(after, _RowMark)
        assert isinstance(until, _RowMark)
        between = select(self._rowid, *_KEYS).where(self._rowid > after.rowid, self._rowid <= until.rowid)
        with querying(self._engine) as connection:
            rows = connection.execute(between.order_by(self._rowid).limit(limit)).all()
        return [Entry(row.id, row.product, row.station, row.decision, _RowMark(row[0], row.id)) for row in rows]

    def _mark(self, query: Select[Any]) -> Mark:
        with querying(self._engine) as connection:
            found = connection.execute(query).first()
        return _RowMark(0, _START) if found is None else _RowMark(found[0], found[1])


@dataclass(frozen=True)
class _SnapshotMark:
    """A position in PostgreSQL: everything in the snapshot `seen`, and up to an id what came into `until`.

    Attributes:
        id: Id of the last inspection.
        seen: A snapshot all of whose inspections are before the position.
        until: A later snapshot, whose further inspections are read in the order of their ids; the same if there are
            none.
        seen_ms: When `seen` was taken, in milliseconds since 1970.
    """

    id: str
    seen: str
    until: str
    seen_ms: int

    @property
    def cursor(self) -> str:
        return f"{self.id}~{self.seen}~{self.until}~{self.seen_ms}"


class _PostgresqlFeed:
    """The cursor contains the snapshots between which the last inspection was committed."""

    def __init__(self, engine: Engine, late_s: float) -> None:
        self._engine = engine
        self._late_ms = int(late_s * 1000)

    def head(self) -> Mark:
        # The time before the snapshot: what is committed later has a later time, except for `late_s`.
        now_ms = time.time_ns() // 1_000_000
        with querying(self._engine) as connection:
            newest, snapshot = connection.execute(_HEAD).one()
        return _SnapshotMark(newest or _START, snapshot, snapshot, now_ms)

    def find(self, cursor: str) -> Mark:
        parsed = _POSTGRESQL.fullmatch(cursor)
        if parsed is None:
            return self._behind(cursor)
        mark = _SnapshotMark(parsed[1], _checked(parsed[2], cursor), _checked(parsed[3], cursor), int(parsed[4]))
        return mark if self._is_own(mark) else self._behind(mark.id)

    def read(self, after: Mark, until: Mark, limit: int) -> list[Entry]:
        assert isinstance(after, _SnapshotMark)
        assert isinstance(until, _SnapshotMark)
        found: list[Entry] = []
        if after.seen != after.until:
            found += self._between(after.seen, after.until, after.seen_ms, after.id, limit)
        if len(found) < limit and after.until != until.until:
            found += self._between(after.until, until.until, after.seen_ms, "", limit - len(found))
        return found

    def _between(self, seen: str, until: str, seen_ms: int, after_id: str, limit: int) -> list[Entry]:
        """Return what came into `until` and is not in `seen`, in the order of ids."""
        values = {
            "seen": seen,
            "until": until,
            "oldest": int(seen.partition(":")[0]),
            "top": int(until.split(":")[1]),
            "after": max(after_id, _id_at(max(0, seen_ms - self._late_ms))),
            "seen_id": _id_at(seen_ms),
            "limit": limit,
        }
        with querying(self._engine) as connection:
            rows = connection.execute(_BETWEEN, values).all()
        return [self._entry(row, seen, until, seen_ms) for row in rows]

    def _entry(self, row: Row[Any], seen: str, until: str, seen_ms: int) -> Entry:
        mark = _SnapshotMark(row.id, seen, until, seen_ms)
        return Entry(row.id, row.product, row.station, row.decision, mark)

    def _is_own(self, mark: _SnapshotMark) -> bool:
        """Return whether the snapshots belong to this database, and not to one that it was restored from."""
        head = self.head()
        assert isinstance(head, _SnapshotMark)
        top = int(head.until.split(":")[1])
        if max(int(mark.seen.split(":")[1]), int(mark.until.split(":")[1])) > top:
            return False
        if mark.seen == mark.until or mark.id == _START:
            return True
        values = {"id": mark.id, "seen": mark.seen, "until": mark.until, "oldest": 1, "top": top}
        with querying(self._engine) as connection:
            return bool(connection.execute(_IS_BETWEEN, values).scalar())

    def _behind(self, name: str) -> Mark:
        """Return the position behind an inspection id, in the order of ids."""
        if name == _START:
            return _SnapshotMark(_START, _NOTHING, _NOTHING, 0)
        inspection_id = _inspection_id(name)
        head = self.head()
        assert isinstance(head, _SnapshotMark)
        # All inspections are unseen, and the ids up to this one are passed over.
        return _SnapshotMark(inspection_id, _NOTHING, head.until, int(inspection_id.replace("-", "")[:12], 16))


def _id_at(moment_ms: int) -> str:
    """Return a text that ids of this time and later are greater than."""
    digits = f"{moment_ms:012x}"
    return f"{digits[:8]}-{digits[8:]}"


def _checked(snapshot: str, cursor: str) -> str:
    """Return a snapshot that PostgreSQL accepts.

    Raises:
        InvalidRequest: It is not one.
    """
    first, last, running = snapshot.split(":")
    oldest, top = int(first), int(last)
    ids = [int(one) for one in running.split(",")] if running else []
    is_valid = 0 < oldest <= top < 2**63 and ids == sorted(set(ids)) and all(oldest <= one < top for one in ids)
    if not is_valid:
        raise _invalid(cursor)
    return f"{oldest}:{top}:{','.join(map(str, ids))}"


_HEAD = select(select(func.max(_TABLE.c.id)).scalar_subquery(), literal_column("CAST(pg_current_snapshot() AS text)"))
# A row has the last 32 bits of its transaction; `top` is a later transaction, from which the others follow.
_TRANSACTION = "(:top - ((:top - CAST(CAST(xmin AS text) AS bigint)) & 4294967295))"
# CASE keeps the cheap comparison before the function, which refuses numbers below 1.
_IS_IN_BETWEEN = f"""CASE WHEN {_TRANSACTION} >= :oldest THEN
    NOT pg_visible_in_snapshot(CAST(CAST({_TRANSACTION} AS text) AS xid8), CAST(:seen AS pg_snapshot))
    AND pg_visible_in_snapshot(CAST(CAST({_TRANSACTION} AS text) AS xid8), CAST(:until AS pg_snapshot))
ELSE false END"""
# The removal of its image changes the transaction of a row. Such a row counts by the time in its id.
_BETWEEN = text(f"""
    SELECT id, product, station, decision FROM inspections
    WHERE id > :after AND CASE WHEN artefacts_removed_at IS NULL THEN {_IS_IN_BETWEEN} ELSE id > :seen_id END
    ORDER BY id LIMIT :limit
""")  # noqa: S608 - nothing in it comes from outside
_IS_BETWEEN = text(
    f"SELECT artefacts_removed_at IS NOT NULL OR {_IS_IN_BETWEEN} FROM inspections WHERE id = :id"  # noqa: S608
)
