"""Failures of the database in plain words. The messages of SQLAlchemy and of the drivers are for the log."""

from __future__ import annotations

import sqlite3
import time

import structlog
from sqlalchemy.exc import DBAPIError, IntegrityError, StatementError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from service.store.errors import StoreUnavailable
from service.store.postgres import reason_of_server

log = structlog.get_logger(__name__)

# While a database is down, every request fails for the same reason.
_LOG_INTERVAL_S = 10.0
_last_logged: dict[str, float] = {}

# By SQLite's primary result code, which is the lowest byte of the extended one.
_SQLITE_REASONS = {
    sqlite3.SQLITE_BUSY: "it is locked by another process",
    sqlite3.SQLITE_LOCKED: "it is locked by another connection",
    sqlite3.SQLITE_READONLY: "it is read-only",
    sqlite3.SQLITE_PERM: "access is denied",
    sqlite3.SQLITE_IOERR: "the disk reports an error",
    sqlite3.SQLITE_CORRUPT: "it is damaged",
    sqlite3.SQLITE_NOTADB: "the file is not a SQLite database",
    sqlite3.SQLITE_FULL: "the disk is full",
    sqlite3.SQLITE_CANTOPEN: "the file cannot be opened",
    sqlite3.SQLITE_SCHEMA: "its schema does not fit this version",
    sqlite3.SQLITE_ERROR: "its tables do not fit this version",
}

SERVER_ADVICE = (
    "Check that the database server runs and can be reached, and the URL in PLUMBLINE_DATABASE_URL (`plumbline "
    "doctor`), then try again."
)
"""What to do about a failure of a database server."""
RESTORE = "Stop the service, and restore a backup of the database."
"""What to do about a damaged database."""
_SQLITE_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_POSTGRESQL_CONFLICTS = {"40001", "40P01"}  # serialization_failure, deadlock_detected
_POSTGRESQL_LOCK_TIMEOUT = "55P03"  # lock_not_available
_POSTGRESQL_DAMAGED = {"XX001", "XX002"}  # data_corrupted, index_corrupted


def database_failure(what: str, error: Exception) -> StoreUnavailable:
    """Return the error to raise for a failure of the database.

    Args:
        what: The first words of the message, such as "the database cannot be read".
        error: What SQLAlchemy, the driver or the operating system raised.
    """
    reason = f"{what} ({reason_of(error)})"
    if _is_damaged(getattr(error, "orig", None) or error):
        return StoreUnavailable(reason, None, remedy=RESTORE)
    return StoreUnavailable(reason, remedy=SERVER_ADVICE if _is_of_server(error) else "")


def is_conflict(error: Exception) -> bool:
    """Return whether a server ended a transaction because of another one, so that it may succeed if it is repeated."""
    return getattr(getattr(error, "orig", None), "sqlstate", None) in _POSTGRESQL_CONFLICTS


def is_lock_timeout(error: Exception) -> bool:
    """Return whether a statement waited too long for a lock of another transaction."""
    return getattr(getattr(error, "orig", None), "sqlstate", None) == _POSTGRESQL_LOCK_TIMEOUT


def log_failure(event: str, error: Exception) -> None:
    """Log the message of a library, at most every 10 s for each kind of error."""
    kind, now = type(error).__name__, time.monotonic()
    if now - _last_logged.get(kind, -_LOG_INTERVAL_S) >= _LOG_INTERVAL_S:
        _last_logged[kind] = now
        log.warning(event, kind=kind, error=str(error))


def reason_of(error: Exception) -> str:
    """Return why the database failed, in our own words, and log the message of the library, at most every 10 s."""
    original = getattr(error, "orig", None) or error
    log_failure("database failure", original)
    if isinstance(error, IntegrityError):
        return "a record with the same key already exists"
    if isinstance(original, ImportError):
        return "its driver is not installed: install the extra 'postgres'"
    if isinstance(original, OSError):
        return original.strerror or "the system reports an error"
    if isinstance(error, PoolTimeout):
        return "all connections are in use"
    if isinstance(error, StatementError) and not isinstance(error, DBAPIError):
        return str(original)  # raised by the column types of this package
    if isinstance(original, sqlite3.Error):
        code = getattr(original, "sqlite_errorcode", None)
        return _SQLITE_REASONS.get((code or 0) & 0xFF, "it reports an error; see the log")
    if isinstance(error, DBAPIError):
        return reason_of_server(original, is_disconnected=error.connection_invalidated)
    return "it reports an error; see the log"


def _is_of_server(error: Exception) -> bool:
    """Return whether a failure is one of a database server, or of the pool of connections to it."""
    original = getattr(error, "orig", None)
    if original is None:
        return isinstance(error, PoolTimeout)
    return not isinstance(original, sqlite3.Error | OSError | ImportError)


def _is_damaged(original: BaseException) -> bool:
    if isinstance(original, sqlite3.Error):
        return (getattr(original, "sqlite_errorcode", None) or 0) & 0xFF in _SQLITE_DAMAGED
    return getattr(original, "sqlstate", None) in _POSTGRESQL_DAMAGED
