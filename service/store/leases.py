"""Which process does a job, if several processes share a PostgreSQL database.

A process holds an advisory lock of its database session per job. The server releases the locks when the session ends,
however the process ends. If the machine of the process ends or is cut off, the server notices it within five seconds,
because it is asked to look for clients that do not respond. A proxy that gives a session to several clients (pgbouncer
in transaction mode) must not be in between.
"""

from __future__ import annotations

import contextlib

import structlog
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import SQLAlchemyError

from service.store.advisory_locks import LockNumber
from service.store.reasons import reason_of

log = structlog.get_logger(__name__)

# Of the server, for the session that holds the locks. By default it looks for dead clients after two hours.
_KEEPALIVES = {"tcp_keepalives_idle": 2, "tcp_keepalives_interval": 1, "tcp_keepalives_count": 3}


class Leases:
    """The jobs that this process does. All methods block and must be called by one thread at a time.

    With SQLite, the process is the only user of the database and holds every lease.

    Args:
        engine: The database.
        number: Returns the number of the lock of a job; see `service.store.advisory_locks`.
    """

    def __init__(self, engine: Engine, number: LockNumber) -> None:
        self._engine = engine
        self._number = number
        self._is_shared = engine.dialect.name == "postgresql"
        self._connection: Connection | None = None
        self._held: set[str] = set()

    def hold(self, jobs: list[str]) -> set[str]:
        """Acquire the leases that no other process holds, keep those that are held, and return all held ones."""
        if not self._is_shared:
            return set(jobs)
        try:
            if self._connection is None:
                connection = self._engine.connect()
                self._connection = connection.execution_options(isolation_level="AUTOCOMMIT")
                for name, value in _KEEPALIVES.items():
                    self._connection.execute(
                        text("SELECT set_config(:name, :value, false)"), {"name": name, "value": str(value)}
                    )
            # Also shows whether the session, and with it the locks, still exists.
            self._connection.execute(text("SELECT 1"))
            for job in jobs:
                if job not in self._held and self._connection.scalar(
                    text("SELECT pg_try_advisory_lock(:key)"), {"key": self._number(job)}
                ):
                    self._held.add(job)
        except SQLAlchemyError as error:
            log.warning("leases of jobs lost", reason=reason_of(error))
            self._drop()
        return set(self._held)

    def release(self) -> None:
        """Release all leases."""
        if self._connection is not None:
            # A session of the pool would keep its locks, so it is closed.
            self._drop()

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        self._held.clear()
        if connection is not None:
            with contextlib.suppress(SQLAlchemyError):
                connection.invalidate()
            with contextlib.suppress(SQLAlchemyError):
                connection.close()
