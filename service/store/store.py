"""The store: database, artefact files and group commit."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import structlog
from sqlalchemy import Engine, event

from service.store.artefacts.files import ArtefactFiles
from service.store.artefacts.local import probe_write
from service.store.artefacts.opening import open_files
from service.store.database import make_engine, migrate, require_usable_schema, sqlite_path
from service.store.errors import StoreUnavailable
from service.store.identity import StorageGuard
from service.store.lock import LOCK_NAME, FileLock
from service.store.options import StoreOptions
from service.store.permissions import make_folder
from service.store.reasons import database_failure
from service.store.schema import UPGRADE
from service.store.sqlite import WAL_SUFFIXES, SqliteFile
from service.store.writer import GroupWriter

log = structlog.get_logger(__name__)


class Store:
    """The database and the artefact files.

    Use `open` in the service. The constructor opens nothing and checks nothing, for commands that only read.

    Args:
        engine: The database.
        files: Images and anomaly maps.
        data: The data folder.

    Attributes:
        engine: The database.
        files: Images and anomaly maps.
        writer: Commits inspections.
        data: The data folder.
        database: The database file; None if the database is a server.
        guard: Checks that files and folders were not deleted or replaced.
        read_only_reason: Why nothing can be written since the start; None in normal operation.
        schema_problem: Why this version cannot work any more with the database, which a newer one has migrated
            meanwhile; None in normal operation. The probe sets it.
    """

    def __init__(self, engine: Engine, files: ArtefactFiles, data: Path) -> None:
        self.engine = engine
        self.files = files
        self.writer = GroupWriter(engine)
        self.data = data
        self.database: SqliteFile | None = None
        self.guard = StorageGuard()
        self.read_only_reason: str | None = None
        self.schema_problem: str | None = None
        self._lock_files: dict[Path, str] = {}
        self._locks: dict[Path, FileLock] = {}
        # As long as one connection is open, SQLite keeps the write-ahead log, so its identity can be checked.
        self._keeper: sqlite3.Connection | None = None

    @classmethod
    def open(cls, url: str, data: Path, options: StoreOptions | None = None, *, is_exclusive: bool = True) -> Store:
        """Open the store, and create it if it does not exist.

        If the disk is full or read-only, an existing store is opened for reading: see `read_only_reason`.

        Args:
            url: SQLAlchemy URL of the database.
            data: The data folder.
            options: Further options; None for the defaults.
            is_exclusive: Lock the data folder and a SQLite database against other processes.

        Raises:
            StoreUnavailable: The folder is not writable, the database cannot be opened, or another process uses it.
        """
        options = options or StoreOptions()
        path = sqlite_path(url)
        guard = StorageGuard()
        database = None if path is None else SqliteFile(path, guard)
        store = cls(make_engine(url, database, options.database), open_files(options.artefacts, data), data)
        store.guard, store.database = guard, database
        if path is None:
            event.listen(store.engine, "commit", lambda _: store._check_commit())
        elif is_exclusive:
            database_file = path.resolve()  # which may lie in another folder, or be linked
            store._lock_files = {
                data.absolute() / LOCK_NAME: f"the data folder {data}",
                database_file.with_name(f"{database_file.name}.lock"): f"the database {path}",
            }
        try:
            store._lock()
            store._open()
        except BaseException:
            store.close()
            raise
        return store

    @property
    def is_shared(self) -> bool:
        """Whether other processes may change the database."""
        return self.database is None

    def require_writable(self) -> None:
        """Check that a verdict can be stored now, as far as it is known without writing.

        Raises:
            StoreUnavailable: Nothing can be written since the start, files were deleted or replaced, images could not
                be written a moment ago, or a newer version has migrated the database and this one cannot work with it.
        """
        if self.read_only_reason is not None:
            raise StoreUnavailable(self.read_only_reason)
        self._check_commit()
        self.files.require_writable()

    def recover(self) -> None:
        """End the read-only operation that began at the start, if the store can be written now.

        Raises:
            StoreUnavailable: It still cannot be written.
        """
        if self.read_only_reason is None:
            return
        assert self.database is not None
        probe_write(self.data)
        self._lock()
        self.database.is_read_only = False
        try:
            self._open_for_writing()
        except BaseException:
            self.database.is_read_only = True
            raise
        self.engine.dispose()  # the connections of the pool only read
        self.read_only_reason = None
        log.info("store can be written again", data=str(self.data))

    def close(self) -> None:
        """Close all connections and release the locks."""
        self.engine.dispose()
        self.files.close()
        if self._keeper is not None:
            self._keeper.close()
            self._keeper = None
        for lock in self._locks.values():
            lock.release()

    def _check_commit(self) -> None:
        if self.schema_problem is not None:
            raise StoreUnavailable(self.schema_problem, remedy=UPGRADE)
        self.guard.check()

    def _lock(self) -> None:
        """Lock the data folder and the database against other processes, as far as they are not locked yet."""
        for path, protects in self._lock_files.items():
            if path in self._locks and self._locks[path].is_held:
                continue
            try:
                make_folder(path.parent)
                self._locks[path] = FileLock(path, protects)
            except OSError as error:
                if self.database is None or not self.database.path.exists():
                    raise StoreUnavailable(f"{path} cannot be created ({error.strerror})") from error
                # A full disk. The stored verdicts are readable nevertheless.
                log.warning("store not locked against a second process", path=str(path), reason=error.strerror)

    def _open(self) -> None:
        try:
            self._open_for_writing()
        except StoreUnavailable as error:
            if self.database is None or not self.database.path.exists():
                raise
            self.database.is_read_only = True
            try:
                require_usable_schema(self.engine)
            except StoreUnavailable:
                raise error from None
            self.read_only_reason = error.reason
            log.error("store opened for reading only", reason=error.reason)

    def _open_for_writing(self) -> None:
        try:
            make_folder(self.data)
        except OSError as error:
            raise StoreUnavailable(f"{self.data} cannot be created ({error.strerror})") from error
        self.files.prepare()
        probe_write(self.data)
        migrate(self.engine)
        try:
            self._watch()
        except (OSError, sqlite3.Error) as error:
            raise database_failure("the store cannot be opened", error) from error

    def _watch(self) -> None:
        """Remember the identity of all files and folders."""
        self.guard.watch(self.data, "the data folder")
        self.files.watch(self.guard)
        for lock in self._locks.values():
            if lock.is_held:
                self.guard.watch(lock.path, "the lock file")
        if self.database is None:
            return
        path = self.database.path
        if self._keeper is None:
            self._keeper = self.database.connect()
            self._keeper.execute("SELECT count(*) FROM sqlite_master").fetchone()
        self.guard.watch(path, "the database")
        for suffix in WAL_SUFFIXES:
            with contextlib.suppress(FileNotFoundError):  # not every file system supports a write-ahead log
                self.guard.watch(path.with_name(path.name + suffix), "the write-ahead log")


@contextmanager
def open_beside_service(url: str, data: Path, options: StoreOptions | None = None) -> Iterator[Engine]:
    """Open the database for a command that writes while a service may use it, too.

    The lock of a running service is no obstacle: SQLite orders the transactions of several processes. The lock protects
    what a service keeps in memory, so such a command changes only rows that the service reads again, such as keys.
    If the database does not exist or has an older schema, it is created or migrated, which a running service prevents.

    Args:
        url: SQLAlchemy URL of the database.
        data: The data folder.
        options: Further options; None for the defaults.

    Raises:
        StoreUnavailable: The database cannot be used, or a service of another version uses it.
    """
    path, options = sqlite_path(url), options or StoreOptions()
    is_current = False
    if path is None or path.exists():
        engine = make_engine(url, options=options.database)
        try:
            require_usable_schema(engine)
            is_current = True
        except StoreUnavailable as error:
            if not error.is_outdated:
                raise
        finally:
            engine.dispose()
    if not is_current:
        Store.open(url, data, options).close()
    engine = make_engine(url, options=options.database)
    try:
        yield engine
    finally:
        engine.dispose()
