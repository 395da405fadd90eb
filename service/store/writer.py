"""Group commit: concurrent inspections share a transaction.

A commit waits for the disk. With one transaction each, eight concurrent inspections would wait for eight commits in a
row. Here, inspections that arrive during a commit are queued, and the first thread that gets the lock commits the
queue. A single inspection is committed at once, in its own thread.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from sqlalchemy import Engine, insert
from sqlalchemy.exc import IntegrityError, OperationalError

from service.store.errors import KeyTaken, StoreUnavailable
from service.store.idempotency import INSERT_KEYS, IdempotencyKey, find_key
from service.store.models import InspectionRow
from service.store.outbox import INSERT_MESSAGES, OutboxFeed
from service.store.reasons import database_failure, is_conflict
from service.store.records import InspectionRecord

MAX_GROUP = 256

# A Core statement that is built once: an ORM statement, built for each commit, took longer than the commit itself.
_INSERT = insert(InspectionRow.__table__)  # type: ignore[arg-type]  # a Table, though declared as FromClause


@dataclass
class _Waiting:
    record: InspectionRecord
    key: IdempotencyKey | None = None
    is_done: bool = False
    error: StoreUnavailable | KeyTaken | None = None

    def key_order(self) -> tuple[str, str]:
        """Return the order in which keys are inserted."""
        return ("", "") if self.key is None else (self.key.principal, self.key.key)


class GroupWriter:
    """Commits inspections from many threads.

    It does not use `service.store.session`: a failure must be delivered to every thread of the group, and the kind of
    failure decides whether the rows are committed again one by one.

    Args:
        engine: The database.

    Attributes:
        commits: Number of transactions so far; smaller than the number of rows if groups were formed.
        feed: Adds the messages of an inspection to the outbox, in the same transaction; None if there is no sink.
    """

    def __init__(self, engine: Engine) -> None:
        self.commits = 0
        self.feed: OutboxFeed | None = None
        self._engine = engine
        self._waiting: list[_Waiting] = []
        self._queue_lock = threading.Lock()
        self._commit_lock = threading.Lock()

    def write(self, record: InspectionRecord, key: IdempotencyKey | None = None) -> None:
        """Commit a record. It is durable when this method returns.

        Args:
            record: A complete record, whose files are written.
            key: Idempotency key of the request; None if it has none.

        Raises:
            KeyTaken: The key belongs to another inspection, so the record is not stored.
            StoreUnavailable: The record is not stored.
        """
        item = _Waiting(record, key)
        with self._queue_lock:
            self._waiting.append(item)
        with self._commit_lock:
            # Another thread may have committed the record while this one waited for the lock.
            while not item.is_done:
                with self._queue_lock:
                    group, self._waiting = self._waiting[:MAX_GROUP], self._waiting[MAX_GROUP:]
                self._commit(group)
        if item.error is not None:
            raise item.error

    @contextmanager
    def between_commits(self) -> Iterator[None]:
        """Delay commits of inspections until the block ends, for a short transaction on the same SQLite database.

        SQLite has one writer at a time. A commit that finds the database locked sleeps and tries again, which takes
        longer than to wait for this lock.
        """
        with self._commit_lock:
            yield

    def _commit(self, group: list[_Waiting]) -> None:
        feed, messages = self.feed, []
        try:
            # In one order in all processes: two transactions that insert the same keys in opposite orders would
            # wait for each other.
            keyed = sorted((item for item in group if item.key is not None), key=_Waiting.key_order)
            keys = [item.key.columns(item.record.id, item.record.created_at) for item in keyed if item.key is not None]
            if feed is not None:
                messages = feed.messages([item.record for item in group])
            with self._engine.begin() as connection:
                if keys:
                    connection.execute(INSERT_KEYS, keys)
                connection.execute(
                    _INSERT,
                    [item.record.columns() for item in group],
                )
                if messages:
                    connection.execute(INSERT_MESSAGES, messages)
            self.commits += 1
        except Exception as error:  # noqa: BLE001 - every thread of the group must receive the failure
            # A single invalid row must not fail the other rows of the group, so they are committed one by one. If the
            # database is unavailable, that would fail for each of them and only take longer.
            if len(group) > 1 and (is_conflict(error) or not isinstance(error, OperationalError | StoreUnavailable)):
                for item in group:
                    self._commit([item])
                return
            for item in group:
                item.error = self._failure(item, error)
        else:
            if feed is not None and messages:
                feed.announce(messages)
        for item in group:
            item.is_done = True

    def _failure(self, item: _Waiting, error: Exception) -> StoreUnavailable | KeyTaken:
        """Return an error of its own for each thread: raising one object in several threads would mix tracebacks."""
        if isinstance(error, StoreUnavailable):
            return error.copy()
        if isinstance(error, IntegrityError) and item.key is not None:
            try:
                if find_key(self._engine, item.key.principal, item.key.key) is not None:
                    return KeyTaken()
            except StoreUnavailable as failure:
                return failure
        return database_failure("the inspection cannot be stored", error)
