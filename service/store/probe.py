"""Probes of the store: whether a verdict could be stored now, and why not. They block and may hang with the disk."""

from __future__ import annotations

import os
import shutil
import sqlite3
import time
from pathlib import Path

import structlog
from sqlalchemy import Engine, insert, literal, select, text

from service.store.artefacts.local import probe_write
from service.store.database import name_of
from service.store.errors import StoreUnavailable
from service.store.models import InspectionRow
from service.store.postgres import Server
from service.store.reasons import RESTORE, database_failure
from service.store.schema import UPGRADE, incompatibility
from service.store.session import reading
from service.store.sqlite import SqliteFile, quick_check
from service.store.store import Store

log = structlog.get_logger(__name__)

WRITE_PROBE_S = 10.0
"""Seconds between two probes that write, while everything is well. They wear out a flash disk if they run always."""
STRUCTURE_CHECK_S = 60.0
STRUCTURE_CHECK_TIMEOUT_S = 1.0
FIRST_STRUCTURE_CHECK_TIMEOUT_S = 3.0
_NEXT_AFTER_PROBLEM_S = 5.0
_BUSY_TIMEOUT_MS = 200
_PROBE_LOCK_TIMEOUT_MS = 1000
_PROBE_ID = "probe"
# At most this share of the file system is required to be free, so that a small one can be used at all.
_LARGEST_MARGIN = 1 / 20


class StoreProbe:
    """Examines the store.

    Args:
        store: The store.
        min_free_bytes: Free space below which the disk counts as full, at most a twentieth of the file system.
    """

    def __init__(self, store: Store, min_free_bytes: int) -> None:
        self._store = store
        self._min_free_bytes = min_free_bytes
        self._problems: tuple[str, ...] = ()
        self._next_write = 0.0
        self._next_structure_check = 0.0
        self._structure_timeout_s = FIRST_STRUCTURE_CHECK_TIMEOUT_S
        self._structure_problem: str | None = None
        self._locked_since_commit: int | None = None
        self._is_insert_due = True

    def __call__(self, *, after_failure: bool = False) -> tuple[str, ...]:
        """Return what prevents verdicts from being stored, one sentence each; empty if nothing does.

        Args:
            after_failure: A verdict could not be stored, so the expensive checks are due now.
        """
        problems = []
        self._is_insert_due = self._is_insert_due or after_failure or bool(self._problems)
        if after_failure and not self._problems:
            self._next_write = self._next_structure_check = 0.0
        for check in (self._check_mode, self._check_identity, self._check_space, self._check_write, self._check_rows):
            try:
                check()
            except StoreUnavailable as error:
                problems.append(f"{error.reason[:1].upper()}{error.reason[1:]}.")
                if check in (self._check_mode, self._check_identity):
                    break  # the other checks would examine something else, or fail for the same reason
        self._problems = tuple(problems)
        return self._problems

    def _check_mode(self) -> None:
        try:
            self._store.recover()
        except StoreUnavailable as error:
            raise StoreUnavailable(f"nothing can be written since the start: {error.reason}") from error

    def _check_identity(self) -> None:
        self._store.guard.check()

    def _check_space(self) -> None:
        folders = {self._store.data}
        if self._store.files.folder is not None:
            folders.add(_existing(self._store.files.folder))
        if self._store.database is not None:
            folders.add(self._store.database.path.parent)
        for folder in folders:
            try:
                usage = shutil.disk_usage(folder)
            except OSError as error:
                raise StoreUnavailable(f"{folder} cannot be examined ({error.strerror})") from error
            margin = min(self._min_free_bytes, usage.total * _LARGEST_MARGIN)
            if usage.free < margin:
                raise StoreUnavailable(
                    f"the disk of {folder} is full: {usage.free / 2**20:.0f} MiB are free, at least "
                    f"{margin / 2**20:.0f} MiB are needed"
                )
            if hasattr(os, "statvfs"):
                status = os.statvfs(folder)
                if status.f_flag & os.ST_RDONLY:
                    raise StoreUnavailable(f"the file system of {folder} is read-only")
                if status.f_files and not status.f_favail:
                    raise StoreUnavailable(f"the disk of {folder} is full: no more files can be created (no inodes)")

    def _check_write(self) -> None:
        now = time.monotonic()
        if now < self._next_write and not self._problems:
            return
        folder, data = self._store.files.folder, self._store.data
        self._store.files.probe()
        if folder is None or data not in folder.parents:
            probe_write(data)
        self._next_write = now + WRITE_PROBE_S

    def _check_rows(self) -> None:
        database = self._store.database
        if database is None:
            self._check_server()
            return
        try:
            connection = database.connect(_BUSY_TIMEOUT_MS)
        except sqlite3.Error as error:
            raise database_failure(f"the database {database.path} cannot be opened", error) from error
        try:
            self._check_structure(connection, database)
            _read_newest(connection, database)
            self._check_write_lock(connection, database)
        finally:
            connection.close()

    def _check_server(self) -> None:
        engine = self._store.engine
        with reading(engine) as session:
            server = Server.of(session.connection())
            incompatible = incompatibility(session.connection())
        for problem in server.write_problems():
            raise StoreUnavailable(f"the database {name_of(engine.url)} {problem}")
        # A newer version may migrate the database while this process runs.
        reason = None if incompatible is None else f"the database {name_of(engine.url)} {incompatible}"
        self._store.schema_problem = reason
        if reason is not None:
            raise StoreUnavailable(f"{reason}. {UPGRADE.rstrip('.')}")
        # Only after a failure: commits show that the server can be written, and this one leaves a dead row behind.
        if self._is_insert_due:
            _probe_insert(engine)
            self._is_insert_due = False

    def _check_structure(self, connection: sqlite3.Connection, database: SqliteFile) -> None:
        now = time.monotonic()
        if now >= self._next_structure_check:
            self._structure_problem = quick_check(connection, self._structure_timeout_s)
            self._structure_timeout_s = STRUCTURE_CHECK_TIMEOUT_S
            pause_s = STRUCTURE_CHECK_S if self._structure_problem is None else _NEXT_AFTER_PROBLEM_S
            self._next_structure_check = time.monotonic() + pause_s
        if self._structure_problem is not None:
            what = f"the database {database.path} is corrupt ({self._structure_problem})"
            raise StoreUnavailable(what, None, remedy=RESTORE)

    def _check_write_lock(self, connection: sqlite3.Connection, database: SqliteFile) -> None:
        try:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("ROLLBACK")
        except sqlite3.OperationalError as error:
            commits = self._store.writer.commits
            # Commits of this process hold the lock, too, one after the other. Then the next probe finds progress.
            is_stuck, self._locked_since_commit = self._locked_since_commit == commits, commits
            if is_stuck or error.sqlite_errorcode != sqlite3.SQLITE_BUSY:
                raise database_failure(f"the database {database.path} cannot be written", error) from error
        else:
            self._locked_since_commit = None


def _existing(folder: Path) -> Path:
    # A folder that was deleted may be created anew; see `StorageGuard`.
    return folder if folder.exists() else folder.parent


def _probe_insert(engine: Engine) -> None:
    """Insert a copy of the newest inspection and roll it back.

    Raises:
        StoreUnavailable: The server cannot store it.
    """
    table = InspectionRow.__table__
    others = [column for column in table.c if column is not table.c.id]
    newest = select(literal(_PROBE_ID), *others).order_by(table.c.id.desc()).limit(1)
    insertion = insert(table).from_select([table.c.id, *others], newest)  # type: ignore[arg-type]  # a Table
    with reading(engine) as session:
        session.execute(text(f"SET LOCAL lock_timeout = {_PROBE_LOCK_TIMEOUT_MS}"))
        session.execute(insertion)
        session.rollback()


def _read_newest(connection: sqlite3.Connection, database: SqliteFile) -> None:
    try:
        for table in ("inspections", "recipes"):
            connection.execute(f"SELECT * FROM {table} ORDER BY rowid DESC LIMIT 1").fetchall()  # noqa: S608 - constants
    except sqlite3.Error as error:
        raise database_failure(f"the database {database.path} cannot be read", error) from error
