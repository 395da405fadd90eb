"""Connections to a SQLite database file."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

import structlog

from service.store.identity import StorageGuard
from service.store.reasons import reason_of

log = structlog.get_logger(__name__)
BUSY_TIMEOUT_MS = 5000
WAL_SUFFIXES = ("-wal", "-shm")


class SqliteFile:
    """A SQLite database file, and the way in which connections to it are opened.

    Args:
        path: The file.
        guard: Checked around every commit and before a connection is used; None for no checks.
        is_read_only: Whether connections only read. Can be changed; it applies to new connections.
    """

    def __init__(self, path: Path, guard: StorageGuard | None = None, *, is_read_only: bool = False) -> None:
        self.path = path
        self.is_read_only = is_read_only
        self.guard = guard

    def connect(self, busy_timeout_ms: int = BUSY_TIMEOUT_MS) -> sqlite3.Connection:
        """Open a connection. The file is never created.

        Raises:
            StoreUnavailable: A file or folder that is guarded was deleted or replaced.
            sqlite3.Error: The file does not exist or cannot be opened.
        """
        if self.guard is not None:
            self.guard.check()  # names the folder that is missing, where SQLite only fails to open the file
        if self.is_read_only:
            return self._open(f"mode=ro{'' if self._has_wal() else '&immutable=1'}", busy_timeout_ms)
        connection = self._open("mode=rw", busy_timeout_ms)
        try:
            configure(connection, busy_timeout_ms)
        except sqlite3.Error:
            connection.close()
            raise
        connection.guard = self.guard
        return connection

    def _has_wal(self) -> bool:
        # Opening a database in WAL mode creates the log and its index, even for reading. Without a log, no process
        # uses the database at this moment, and the file is complete: it can be read as an immutable one.
        return self.path.with_name(f"{self.path.name}-wal").exists()

    def _open(self, query: str, busy_timeout_ms: int) -> _Connection:
        connection = sqlite3.connect(
            f"{self.path.absolute().as_uri()}?{query}",
            timeout=busy_timeout_ms / 1000,
            check_same_thread=False,
            factory=_Connection,
            uri=True,
        )
        assert isinstance(connection, _Connection)
        return connection


class _Connection(sqlite3.Connection):
    """A connection that checks the identity of the files around every commit.

    The check after the commit is needed as well: a file that was deleted a moment before the commit took the rows with
    it.
    """

    guard: StorageGuard | None = None

    def commit(self) -> None:
        if self.guard is None or not self.in_transaction:
            super().commit()
            return
        self.guard.check()
        super().commit()
        self.guard.check()


def configure(connection: sqlite3.Connection, busy_timeout_ms: int = BUSY_TIMEOUT_MS) -> None:
    """Set the pragmas of a connection that writes."""
    # WAL lets readers continue while the writer commits. With synchronous=FULL a commit survives a power failure, not
    # only a crash: a returned verdict is on disk.
    for pragma in (
        "journal_mode=WAL",
        "synchronous=FULL",
        f"busy_timeout={busy_timeout_ms}",
        "foreign_keys=ON",
    ):
        connection.execute(f"PRAGMA {pragma}")


def quick_check(connection: sqlite3.Connection, timeout_s: float) -> str | None:
    """Check the structure of the database for a limited time.

    Args:
        connection: An open connection.
        timeout_s: The check is ended after this time. What was not examined until then counts as intact.

    Returns:
        What is wrong in our own words, or None.
    """
    timer = threading.Timer(timeout_s, connection.interrupt)
    timer.daemon = True
    timer.start()
    try:
        (result,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode == sqlite3.SQLITE_INTERRUPT:
            return None
        return reason_of(error)
    except sqlite3.DatabaseError as error:
        return reason_of(error)
    finally:
        timer.cancel()
    if result == "ok":
        return None
    log.error("structure of the database damaged", finding=str(result))
    return "the check of its structure finds damage"


def check_file(path: Path, timeout_s: float) -> str | None:
    """Check the structure of a database file that may be in use, without changing anything.

    Returns:
        The first error that was found within the time, or None.
    """
    connection = SqliteFile(path, is_read_only=True).connect()
    try:
        return quick_check(connection, timeout_s)
    finally:
        connection.close()
