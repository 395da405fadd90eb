"""Group commit: one thread writes everybody's inspections, many in one transaction.

A commit waits for the disk. With one transaction per inspection eight cameras would wait eight times in a
row; here whatever arrived while the last commit was under way goes into the next one. A future is resolved
after its row is on disk, never before.
"""

from __future__ import annotations

import queue
import threading
from concurrent.futures import Future

from sqlalchemy import Engine, insert
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from service.errors import ShuttingDown
from service.store.errors import StoreUnavailable
from service.store.models import InspectionRow

MAX_GROUP = 256

_COLUMNS = tuple(column.key for column in InspectionRow.__table__.columns)
_Handed = tuple[InspectionRow, Future[None]]


class GroupWriter:
    """Commits inspection rows from one thread.

    Args:
        engine: The database.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._queue: queue.SimpleQueue[_Handed | None] = queue.SimpleQueue()
        # Guards the queue's end: nothing may be put behind the None that stops the thread.
        self._closing = threading.Lock()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="store-writer", daemon=True)
        self._thread.start()

    def submit(self, row: InspectionRow) -> Future[None]:
        """Hand in a row. The future is done when the row is on disk, or holds `StoreUnavailable`.

        Args:
            row: Complete, its files written.

        Raises:
            ShuttingDown: The writer was closed.
        """
        done: Future[None] = Future()
        # From here on it cannot be cancelled: the row will be written whether or not somebody still waits
        # for it.
        done.set_running_or_notify_cancel()
        with self._closing:
            if self._closed:
                raise ShuttingDown()
            self._queue.put((row, done))
        return done

    def close(self) -> None:
        """Commit what was handed in and end the thread."""
        with self._closing:
            if not self._closed:
                self._closed = True
                self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (first := self._queue.get()) is not None:
            group, last = [first], False
            while len(group) < MAX_GROUP:
                try:
                    item = self._queue.get_nowait()
                except queue.Empty:
                    break
                if item is None:
                    last = True
                    break
                group.append(item)
            self._commit(group)
            if last:
                return

    def _commit(self, group: list[_Handed]) -> None:
        try:
            with self._engine.begin() as connection:
                connection.execute(
                    insert(InspectionRow),
                    [{name: getattr(row, name) for name in _COLUMNS} for row, _ in group],
                )
        except Exception as error:  # noqa: BLE001 - whatever it is, somebody waits for an answer and the thread lives on
            # One row that the database refuses must not take its neighbours with it. A database that is not
            # there refuses them all, and trying one by one would only make everybody wait longer.
            if len(group) > 1 and not isinstance(error, OperationalError):
                for item in group:
                    self._commit([item])
                return
            reason = str(error.__cause__ or error) if isinstance(error, SQLAlchemyError) else repr(error)
            for _, done in group:
                done.set_exception(StoreUnavailable(f"the database did not take the inspection ({reason})"))
            return
        for _, done in group:
            done.set_result(None)
