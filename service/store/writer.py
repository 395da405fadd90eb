"""Group commit: many inspections in one transaction, without anybody waiting for company.

A commit waits for the disk. With one transaction each, eight cameras would wait eight times in a row. Here whoever
comes while a commit is under way queues up, and the first of them to get the lock commits for all. Who comes alone
commits at once, in their own thread.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

from sqlalchemy import Engine, insert
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from service.store.errors import StoreUnavailable
from service.store.models import InspectionRow
from service.store.records import InspectionRecord

MAX_GROUP = 256

# On the table and built once: as an ORM statement, built for every commit, it would cost more than the disk does.
_INSERT = insert(InspectionRow.__table__)  # type: ignore[arg-type]  # a Table, though declared as FromClause


@dataclass
class _Waiting:
    record: InspectionRecord
    is_done: bool = False
    error: StoreUnavailable | None = None


class GroupWriter:
    """Commits inspection rows for many threads.

    Args:
        engine: The database.

    Attributes:
        commits: Transactions so far; fewer than rows where groups formed.
    """

    def __init__(self, engine: Engine) -> None:
        self.commits = 0
        self._engine = engine
        self._waiting: list[_Waiting] = []
        self._queue_lock = threading.Lock()
        self._commit_lock = threading.Lock()

    def write(self, record: InspectionRecord) -> None:
        """Commit a record. It is on the disk when this returns.

        Args:
            record: Complete, its files written.

        Raises:
            StoreUnavailable: It is not stored.
        """
        item = _Waiting(record)
        with self._queue_lock:
            self._waiting.append(item)
        with self._commit_lock:
            # Often somebody else has committed it while this thread waited for the lock.
            while not item.is_done:
                with self._queue_lock:
                    group, self._waiting = self._waiting[:MAX_GROUP], self._waiting[MAX_GROUP:]
                self._commit(group)
        if item.error is not None:
            raise item.error

    def _commit(self, group: list[_Waiting]) -> None:
        try:
            with self._engine.begin() as connection:
                connection.execute(
                    _INSERT,
                    [item.record.columns() for item in group],
                )
            self.commits += 1
        except Exception as error:  # noqa: BLE001 - whatever it is, every member of the group must hear of it
            # One row that the database refuses must not take its neighbours with it. A database that is not
            # there refuses them all, and trying one by one would only make everybody wait longer.
            if len(group) > 1 and not isinstance(error, OperationalError):
                for item in group:
                    self._commit([item])
                return
            reason = str(error.__cause__ or error) if isinstance(error, SQLAlchemyError) else repr(error)
            for item in group:
                item.error = StoreUnavailable(f"the database did not take the inspection ({reason})")
        for item in group:
            item.is_done = True
