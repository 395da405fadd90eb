"""Open the database: engine, schema version and migrations."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import structlog
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import URL, Connection, Engine, NullPool, QueuePool, create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from service.store.errors import StoreUnavailable
from service.store.permissions import make_folder, make_private
from service.store.postgres import DatabaseOptions, Server, lock_for_migration
from service.store.reasons import database_failure, is_lock_timeout
from service.store.schema import (
    MIGRATIONS,
    Schema,
    newest_revision,
    record_compatibility,
    too_new,
    too_old_programs,
)
from service.store.sqlite import SqliteFile, configure

log = structlog.get_logger(__name__)

MIGRATION_TIMEOUT_S = 240.0
"""Seconds for which a migration is tried while transactions of other processes lock its tables."""
_PAUSE_S = 1.0


def sqlite_path(url: str) -> Path | None:
    """Return the file of a SQLite database; None for another database.

    Args:
        url: SQLAlchemy URL.
    """
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite" or not parsed.database:
        return None
    return Path(parsed.database).absolute()


def make_engine(url: str, file: SqliteFile | None = None, options: DatabaseOptions | None = None) -> Engine:
    """Return an engine without connecting.

    Args:
        url: SQLAlchemy URL.
        file: Opens the connections to a SQLite database; None to use the file of the URL without a guard.
        options: Limits of the connections to a server; None for the defaults.

    Raises:
        StoreUnavailable: The driver of the database is not installed.
    """
    parsed = make_url(url)
    path = sqlite_path(url)
    if path is None:
        return _create_for_server(parsed, options or DatabaseOptions())
    file = file or SqliteFile(path)
    engine = _create(parsed, creator=file.connect, poolclass=QueuePool)
    if (guard := file.guard) is not None:
        # Connections of the pool can read a deleted file as if nothing had happened.
        @event.listens_for(engine, "checkout")
        def checkout(*_: Any) -> None:
            guard.check()

    return engine


def open_read_only_engine(url: str, options: DatabaseOptions | None = None) -> Engine:
    """Connect to a database for reading only. Nothing is created and nothing is migrated.

    Args:
        url: SQLAlchemy URL.
        options: Limits of the connections to a server; None for the defaults.

    Raises:
        StoreUnavailable: The database does not exist, cannot be opened, or has a schema that this version cannot use.
    """
    parsed = make_url(url)
    path = sqlite_path(url)
    if path is None:
        engine = _create_for_server(
            parsed, options or DatabaseOptions(), execution_options={"postgresql_readonly": True}
        )
    else:
        # A connection of its own for every session: each decides anew how the file has to be opened.
        engine = _create(parsed, creator=SqliteFile(path, is_read_only=True).connect, poolclass=NullPool)
    try:
        require_usable_schema(engine)
    except StoreUnavailable:
        engine.dispose()
        raise
    return engine


def migrate(engine: Engine) -> None:
    """Create the database if it does not exist, and migrate its schema to this version.

    A schema that a newer version has migrated stays as it is, if this version can work with it.

    Raises:
        StoreUnavailable: It cannot be opened or migrated, or this version cannot work with the schema of a newer one.
    """
    path = sqlite_path(str(engine.url))
    try:
        if path is not None:
            make_folder(path.parent)
            make_private(path)
        else:
            _require_usable(engine)
        _upgrade(engine)
    except (SQLAlchemyError, OSError) as error:
        raise _cannot_open(engine.url, error) from error


def require_usable_schema(engine: Engine) -> Schema:
    """Check that this version can work with the schema of the database, and return it.

    Raises:
        StoreUnavailable: It is that of an older version (`is_outdated`), that of a newer one with which this version
            cannot work, or the database cannot be read.
    """
    try:
        with engine.connect() as connection:
            schema = Schema.of(connection)
    except (SQLAlchemyError, OSError) as error:
        raise _cannot_open(engine.url, error) from error
    _require_not_too_new(engine.url, schema)
    expected = newest_revision()
    if not schema.is_newer and schema.revision != expected:
        raise StoreUnavailable(
            f"the database {name_of(engine.url)} has the schema {schema.revision or 'of an empty database'}, and this "
            f"version of Plumbline needs {expected}",
            remedy="`plumbline serve` of this version migrates it when it starts. This command only reads, so it "
            "changed nothing. Make a backup first if an older version may be needed again.",
            is_outdated=True,
        )
    return schema


def name_of(url: URL) -> str:
    """Return the name of a database for messages, without a password: its file, or `user@host:port/name`."""
    if url.get_backend_name() == "sqlite":
        return url.render_as_string()
    user = f"{url.username}@" if url.username else ""
    port = f":{url.port}" if url.port else ""
    return f"{user}{url.host or url.query.get('host', 'localhost')}{port}/{url.database or ''}"


def _create_for_server(url: URL, options: DatabaseOptions, **engine_options: Any) -> Engine:
    engine = _create(
        url,
        # Connections that the server or a firewall closed in the meantime are replaced before they are used.
        pool_pre_ping=True,
        pool_size=options.pool_size,
        max_overflow=0,
        pool_timeout=options.connect_timeout_s,
        isolation_level="READ COMMITTED",
        connect_args=options.connect_args(url),
        **engine_options,
    )
    event.listen(engine, "connect", options.configure)
    return engine


def _require_usable(engine: Engine) -> None:
    with engine.connect() as connection:
        server = Server.of(connection)
    for problem in (*server.problems(), *server.write_problems()):
        raise StoreUnavailable(f"the database {name_of(engine.url)} {problem}")


def _create(url: URL, **options: Any) -> Engine:
    try:
        return create_engine(url, **options)
    except (SQLAlchemyError, ImportError) as error:
        raise _cannot_open(url, error) from error


def _cannot_open(url: URL, error: Exception) -> StoreUnavailable:
    return database_failure(f"the database {name_of(url)} cannot be opened", error)


def _require_not_too_new(url: URL, schema: Schema) -> None:
    if schema.is_too_new:
        raise StoreUnavailable(
            f"the database {name_of(url)} has the schema {schema.revision}; it {too_new(schema.oldest_revision)}",
            remedy="Run the version that migrated it, or restore a backup from before the migration.",
        )


def _require_no_older_programs(url: URL, revisions: set[str]) -> None:
    if revisions:
        raise StoreUnavailable(
            f"the database {name_of(url)} is used by a process of an older version of Plumbline (its newest migration "
            f"is {', '.join(sorted(revisions))}), which could not work with the tables of this version",
            remedy="Nothing was changed. Upgrade that process to the release before this version, or stop it, and "
            "start this version again.",
        )


def _upgrade(engine: Engine, revision: str = "head", migrations: Path = MIGRATIONS) -> None:
    """Run all missing migrations up to a revision in one transaction.

    A change of a table waits until no transaction uses the table, and all later statements of other processes wait
    behind it. So it waits only briefly, and is tried again: a long query of another process delays the migration, and
    not the inspections of the processes that run during an upgrade.

    Args:
        engine: The database.
        revision: The newest migration to run.
        migrations: Folder of the migrations.
    """
    deadline = time.monotonic() + MIGRATION_TIMEOUT_S
    while True:
        try:
            _upgrade_once(engine, revision, migrations)
        except SQLAlchemyError as error:
            if not is_lock_timeout(error) or time.monotonic() > deadline:
                raise
            log.warning("migration waits for transactions of other processes", database=name_of(engine.url))
            time.sleep(_PAUSE_S)
        else:
            return


def _upgrade_once(engine: Engine, revision: str, migrations: Path) -> None:
    with _migrating(engine, migrations) as config:
        connection, scripts = config.attributes["connection"], ScriptDirectory.from_config(config)
        schema = Schema.of(connection)
        if schema.is_newer:
            log.warning("database was migrated by a newer version", schema=schema.revision)
            return
        newest = scripts.as_revision_number(revision)
        assert isinstance(newest, str)
        if engine.dialect.name == "postgresql" and schema.revision not in (None, newest):
            _require_no_older_programs(engine.url, too_old_programs(connection, scripts, newest))
        command.upgrade(config, revision)


@contextmanager
def _migrating(engine: Engine, migrations: Path = MIGRATIONS) -> Iterator[Config]:
    """Yield alembic's configuration inside a transaction that excludes other processes.

    Raises:
        StoreUnavailable: A newer version has migrated the schema, and this version cannot work with it.
    """
    is_sqlite = engine.dialect.name == "sqlite"
    if is_sqlite:
        engine = _transactional(engine)
    config = Config()
    config.set_main_option("script_location", str(migrations).replace("%", "%%"))
    with engine.begin() as connection:
        if not is_sqlite:
            lock_for_migration(connection)
        schema = Schema.of(connection)
        _require_not_too_new(engine.url, schema)
        config.attributes["connection"] = connection
        yield config
        if not schema.is_newer:
            record_compatibility(connection, ScriptDirectory.from_config(config))


def _transactional(engine: Engine) -> Engine:
    """Return an engine for the same SQLite database that runs DDL inside transactions, and creates the file.

    By default Python's driver commits before each CREATE TABLE. If the process were killed between a table and the
    entry in alembic's version table, the database would need manual repair. BEGIN IMMEDIATE also serialises two
    processes that create the same database at the same time.
    """
    own = create_engine(engine.url, poolclass=NullPool)

    @event.listens_for(own, "connect")
    def connect(connection: sqlite3.Connection, _record: Any) -> None:
        connection.isolation_level = None
        configure(connection)
        # Alembic alters a SQLite table by copying and dropping it. Dropping must not cascade to referring rows.
        connection.execute("PRAGMA foreign_keys=OFF")

    @event.listens_for(own, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return own
