"""The outbox: messages to sinks, stored in the transaction of their inspection and deleted after their delivery.

A message refers to its inspection and holds no copy of it, so that the insert adds little to the commit of a verdict.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, fields, replace
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Delete, Engine, Update, delete, func, insert, select, update

from service.schemas.outbox import DeadReason
from service.store.audit import AuditEntry, append_audit
from service.store.errors import UnknownDeadLetter
from service.store.ids import new_id
from service.store.inspections import find_inspections
from service.store.models import OutboxRow
from service.store.records import InspectionRecord
from service.store.session import reading, transaction, writing

MAX_ERROR = 500
# Rows per statement: databases limit the number of values, and a long transaction would delay the commit of a verdict.
_GROUP = 500
_TABLE = OutboxRow.__table__
_IS_PENDING = _TABLE.c.dead_at.is_(None)
_IS_DEAD = _TABLE.c.dead_at.is_not(None)
_CORE = {"synchronize_session": False}

# Built once, like the insert of inspections.
INSERT_MESSAGES = insert(_TABLE)  # type: ignore[arg-type]  # a Table, though declared as FromClause


@dataclass(frozen=True)
class Subscription:
    """The inspections that a sink receives.

    Attributes:
        sink: Name of the sink.
        products: The products; None for all.
        decisions: The decisions; None for all.
    """

    sink: str
    products: frozenset[str] | None = None
    decisions: frozenset[str] | None = None

    def matches(self, record: InspectionRecord) -> bool:
        """Return whether the sink receives an inspection."""
        return (self.products is None or record.product in self.products) and (
            self.decisions is None or record.decision in self.decisions
        )


class OutboxFeed:
    """Makes the messages of inspections that are being stored.

    Args:
        subscriptions: The sinks.
        listener: Called after a commit with the pairs of sink and product that have new messages. It must return at
            once, because the next commit waits for it.
    """

    def __init__(
        self, subscriptions: Sequence[Subscription], listener: Callable[[Collection[tuple[str, str]]], None]
    ) -> None:
        self._subscriptions = tuple(subscriptions)
        self._listener = listener

    def messages(self, records: Sequence[InspectionRecord]) -> list[dict[str, Any]]:
        """Return the rows to insert, in the order of the records."""
        rows = []
        for record in records:
            event_id = str(new_id())
            rows += [
                {
                    "sink": one.sink,
                    "product": record.product,
                    "inspection_id": record.id,
                    "event_id": event_id,
                    "created_at": record.created_at,
                    "attempts": 0,
                    "rejections": 0,
                }
                for one in self._subscriptions
                if one.matches(record)
            ]
        return rows

    def announce(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Report committed messages."""
        self._listener({(row["sink"], row["product"]) for row in rows})


@dataclass(frozen=True, kw_only=True)
class OutboxMessage:
    """A stored message. The fields are those of `OutboxRow`."""

    id: int
    sink: str
    product: str
    inspection_id: str
    event_id: str
    created_at: datetime
    attempts: int
    rejections: int
    next_attempt_at: datetime | None
    last_error: str | None
    dead_at: datetime | None
    dead_reason: str | None


@dataclass(frozen=True)
class SinkBacklog:
    """What the outbox holds for a sink.

    Attributes:
        pending: Number of messages that are not delivered yet.
        oldest_at: Time of the oldest of them; None if there is none.
        dead_letters: Number of dead letters.
    """

    pending: int = 0
    oldest_at: datetime | None = None
    dead_letters: int = 0


@dataclass(frozen=True)
class DeadLetterFilter:
    """Conditions on dead letters. None matches any value.

    Attributes:
        sink: Name of the sink.
        product: Name of the product.
    """

    sink: str | None = None
    product: str | None = None


_COLUMNS = [_TABLE.c[field.name] for field in fields(OutboxMessage)]


class Outbox:
    """The stored messages. Every method raises `StoreUnavailable` if the database cannot be used.

    Args:
        engine: The database.
        turn: Returns a context that excludes commits of inspections; see `GroupWriter.between_commits`. None if the
            database has several writers.
    """

    def __init__(self, engine: Engine, turn: Callable[[], AbstractContextManager[None]] | None = None) -> None:
        self._engine = engine
        self._turn = turn or nullcontext

    def products(self, sink: str) -> list[str]:
        """Return the products with pending messages to a sink."""
        found: list[str] = []
        smallest = select(func.min(_TABLE.c.product)).where(_TABLE.c.sink == sink, _IS_PENDING)
        with reading(self._engine) as session:
            # One step in the index per product. DISTINCT would read the whole backlog.
            product = session.scalar(smallest)
            while product is not None:
                found.append(product)
                product = session.scalar(smallest.where(_TABLE.c.product > product))
        return found

    def pending(self, sink: str, product: str, limit: int) -> list[tuple[OutboxMessage, InspectionRecord | None]]:
        """Return the oldest pending messages of a product with their inspections, oldest first.

        Args:
            sink: Name of the sink.
            product: Name of the product.
            limit: Maximum number of messages.

        Returns:
            The messages, each with its inspection, or None if that is no longer stored.
        """
        query = (
            select(*_COLUMNS)
            .where(_TABLE.c.sink == sink, _TABLE.c.product == product, _IS_PENDING)
            .order_by(_TABLE.c.id)
            .limit(limit)
        )
        with reading(self._engine) as session:
            messages = [OutboxMessage(**row) for row in session.execute(query).mappings()]
        records = find_inspections(self._engine, [UUID(message.inspection_id) for message in messages])
        return [(message, records.get(message.inspection_id)) for message in messages]

    def remove(self, ids: Sequence[int]) -> None:
        """Delete delivered messages."""
        for group in _groups(ids):
            with self._writing("the delivery of messages cannot be stored") as connection:
                connection.execute(delete(OutboxRow).where(OutboxRow.id.in_(group)))

    def postpone(self, message: OutboxMessage, error: str, next_attempt_at: datetime, *, is_rejected: bool) -> None:
        """Store that an attempt failed and that another one follows.

        Args:
            message: The message.
            error: Why the attempt failed.
            next_attempt_at: When to try again.
            is_rejected: Whether the receiver answered with an error.
        """
        change = _update().where(OutboxRow.id == message.id, OutboxRow.dead_at.is_(None)).values(
            attempts=OutboxRow.attempts + 1,
            rejections=OutboxRow.rejections + int(is_rejected),
            next_attempt_at=next_attempt_at,
            last_error=error[:MAX_ERROR],
        )  # fmt: skip
        with self._writing("the failed delivery of a message cannot be stored") as connection:
            connection.execute(change)

    def bury(self, message: OutboxMessage, reason: DeadReason, error: str, moment: datetime) -> None:
        """Make a message a dead letter.

        Args:
            message: The message.
            reason: Why it is given up.
            error: Why the last attempt failed.
            moment: The time.
        """
        is_attempt = reason != "missing"
        change = _dead(reason, moment).values(
            attempts=OutboxRow.attempts + int(is_attempt), last_error=error[:MAX_ERROR]
        )
        with self._writing("a dead letter cannot be stored") as connection:
            connection.execute(change.where(OutboxRow.id == message.id))

    def bury_expired(self, sink: str, older_than: datetime, moment: datetime) -> int:
        """Make the pending messages of a sink dead letters that are older than a time; return their number."""
        old = select(OutboxRow.id).where(
            OutboxRow.sink == sink, OutboxRow.dead_at.is_(None), OutboxRow.created_at < older_than
        )
        return self._bury_all(list(self._scalars(old)), "age", moment)

    def bury_surplus(self, sink: str, limit: int, moment: datetime) -> int:
        """Make the oldest pending messages of a sink dead letters, as many as exceed the limit; return their number."""
        is_of_sink = (OutboxRow.sink == sink, OutboxRow.dead_at.is_(None))
        (count,) = self._scalars(select(func.count()).select_from(OutboxRow).where(*is_of_sink))
        if count <= limit:
            return 0
        oldest = select(OutboxRow.id).where(*is_of_sink).order_by(OutboxRow.id).limit(count - limit)
        return self._bury_all(list(self._scalars(oldest)), "full", moment)

    def trim_dead_letters(self, sink: str, limit: int) -> int:
        """Delete the oldest dead letters of a sink, as many as exceed the limit; return their number."""
        newest = (
            select(OutboxRow.id)
            .where(OutboxRow.sink == sink, OutboxRow.dead_at.is_not(None))
            .order_by(OutboxRow.id.desc())
            .offset(limit)
        )
        count = 0
        for group in _groups(list(self._scalars(newest))):
            with self._writing("dead letters cannot be deleted") as connection:
                # One that is sent again meanwhile is pending, and is kept.
                change = delete(OutboxRow).where(OutboxRow.id.in_(group), OutboxRow.dead_at.is_not(None))
                count += connection.execute(change).rowcount
        return count

    def backlogs(self) -> dict[str, SinkBacklog]:
        """Return what the outbox holds, by sink. Sinks without messages are not included."""
        pending = select(_TABLE.c.sink, func.count(), func.min(_TABLE.c.id)).where(_IS_PENDING).group_by(_TABLE.c.sink)
        dead = select(_TABLE.c.sink, func.count()).where(_IS_DEAD).group_by(_TABLE.c.sink)
        with reading(self._engine) as session:
            counts = {sink: (count, oldest) for sink, count, oldest in session.execute(pending)}
            dead_counts: dict[str, int] = {row[0]: row[1] for row in session.execute(dead)}
            times = select(_TABLE.c.id, _TABLE.c.created_at).where(_TABLE.c.id.in_([one for _, one in counts.values()]))
            oldest_at: dict[int, datetime] = {row[0]: row[1] for row in session.execute(times)}
        found = {}
        for sink in sorted(counts.keys() | dead_counts.keys()):
            count, oldest = counts.get(sink, (0, None))
            found[sink] = SinkBacklog(
                count, None if oldest is None else oldest_at.get(oldest), dead_counts.get(sink, 0)
            )
        return found

    def dead_letters(self, which: DeadLetterFilter, *, before: int | None, limit: int) -> Sequence[OutboxMessage]:
        """Return dead letters, newest first.

        Args:
            which: The conditions.
            before: Return only messages with a smaller id, which is the last id of the previous page.
            limit: Maximum number of messages.
        """
        query = select(*_COLUMNS).where(*_conditions(which)).order_by(_TABLE.c.id.desc()).limit(limit)
        if before is not None:
            query = query.where(_TABLE.c.id < before)
        with reading(self._engine) as session:
            return [OutboxMessage(**row) for row in session.execute(query).mappings()]

    def dead_letter(self, message_id: int) -> OutboxMessage:
        """Return a dead letter.

        Raises:
            UnknownDeadLetter: There is no dead letter with this id.
        """
        query = select(*_COLUMNS).where(_TABLE.c.id == message_id, _IS_DEAD)
        with reading(self._engine) as session:
            row = session.execute(query).mappings().one_or_none()
        if row is None:
            raise UnknownDeadLetter(message_id)
        return OutboxMessage(**row)

    def resend(self, ids: Sequence[int], moment: datetime, entry: AuditEntry) -> int:
        """Make dead letters pending again, at their former places in the order; return their number.

        The age of a message counts from now on, so that the limit of age does not give it up at once.

        Args:
            ids: Ids of dead letters.
            moment: The time.
            entry: Who requests it; it is recorded with the ids and their inspections.
        """
        change = _update().values(
            attempts=0, rejections=0, next_attempt_at=None, dead_at=None, dead_reason=None, created_at=moment
        )
        return self._change_dead(ids, change, entry, "dead letters cannot be sent again")

    def discard(self, ids: Sequence[int], entry: AuditEntry) -> int:
        """Delete dead letters; return their number.

        Args:
            ids: Ids of dead letters.
            entry: Who requests it; it is recorded with the ids and their inspections.
        """
        return self._change_dead(ids, delete(OutboxRow), entry, "dead letters cannot be deleted")

    def dead_letter_ids(self, which: DeadLetterFilter) -> list[int]:
        """Return the ids of dead letters, oldest first."""
        return list(self._scalars(select(_TABLE.c.id).where(*_conditions(which)).order_by(_TABLE.c.id)))

    def _change_dead(self, ids: Sequence[int], change: Update | Delete, entry: AuditEntry, what: str) -> int:
        """Run a statement on dead letters and record it in the audit log, one transaction and entry per group."""
        count = 0
        for group in _groups(ids):
            # Not read before: SQLite refuses a write if another connection wrote since the transaction read.
            dead = change.where(OutboxRow.id.in_(group), OutboxRow.dead_at.is_not(None))
            with self._turn(), writing(self._engine, what) as session:
                named = dead.returning(OutboxRow.id, OutboxRow.inspection_id)
                changed = session.execute(named, execution_options=_CORE)
                letters = {str(message_id): inspection_id for message_id, inspection_id in changed}
                if letters:
                    append_audit(session, replace(entry, before={"inspections": letters}))
            count += len(letters)
        return count

    def _bury_all(self, ids: Sequence[int], reason: DeadReason, moment: datetime) -> int:
        count = 0
        for group in _groups(ids):
            with self._writing("dead letters cannot be stored") as connection:
                change = _dead(reason, moment).where(OutboxRow.id.in_(group), OutboxRow.dead_at.is_(None))
                count += connection.execute(change).rowcount
        return count

    def _scalars(self, query: Any) -> Sequence[Any]:
        with reading(self._engine) as session:
            return session.scalars(query).all()

    @contextmanager
    def _writing(self, what: str) -> Iterator[Connection]:
        with self._turn(), transaction(self._engine, what) as connection:
            yield connection


def _update() -> Update:
    return update(OutboxRow)


def _dead(reason: DeadReason, moment: datetime) -> Update:
    return _update().values(dead_at=moment, dead_reason=reason, next_attempt_at=None)


def _conditions(which: DeadLetterFilter) -> list[Any]:
    conditions: list[Any] = [_IS_DEAD]
    if which.sink is not None:
        conditions.append(_TABLE.c.sink == which.sink)
    if which.product is not None:
        conditions.append(_TABLE.c.product == which.product)
    return conditions


def _groups(ids: Sequence[int]) -> Iterator[Sequence[int]]:
    for start in range(0, len(ids), _GROUP):
        yield ids[start : start + _GROUP]
