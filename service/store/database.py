"""Open the database: engine, SQLite pragmas and migrations."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, Engine, NullPool, create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from service.store.errors import StoreUnavailable

MIGRATIONS = Path(__file__).parent / "migrations"
SQLITE_BUSY_TIMEOUT_MS = 5000


def open_engine(url: str) -> Engine:
    """Connect to a database, migrate its schema to this version, and return the engine.

    Args:
        url: SQLAlchemy URL.

    Raises:
        StoreUnavailable: The database cannot be opened or migrated.
    """
    parsed = make_url(url)
    is_sqlite = parsed.get_backend_name() == "sqlite"
    try:
        if is_sqlite and parsed.database:
            Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
        engine = create_engine(parsed, pool_pre_ping=not is_sqlite)
        if is_sqlite:
            event.listen(engine, "connect", _configure_sqlite)
        _upgrade(engine)
    except (SQLAlchemyError, OSError, ImportError) as error:
        raise StoreUnavailable(f"the database {parsed.render_as_string()} cannot be opened ({error})") from error
    return engine


def _upgrade(engine: Engine, revision: str = "head") -> None:
    """Run all missing migrations up to a revision in one transaction."""
    if engine.dialect.name == "sqlite":
        engine = _transactional(engine)
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)


def _transactional(engine: Engine) -> Engine:
    """Return an engine for the same SQLite database that runs DDL inside transactions.

    By default Python's driver commits before each CREATE TABLE. If the process were killed between a table and the
    entry in alembic's version table, the database would need manual repair. BEGIN IMMEDIATE also serialises two
    processes that create the same database at the same time.
    """
    own = create_engine(engine.url, poolclass=NullPool)

    @event.listens_for(own, "connect")
    def connect(connection: sqlite3.Connection, record: Any) -> None:
        connection.isolation_level = None
        _configure_sqlite(connection, record)
        # Alembic alters a SQLite table by copying and dropping it. Dropping must not cascade to referring rows.
        connection.execute("PRAGMA foreign_keys=OFF")

    @event.listens_for(own, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return own


def _configure_sqlite(connection: sqlite3.Connection, _record: Any) -> None:
    # WAL lets readers continue while the writer commits. With synchronous=FULL a commit survives a power failure, not
    # only a crash: a returned verdict is on disk.
    for pragma in (
        "journal_mode=WAL",
        "synchronous=FULL",
        f"busy_timeout={SQLITE_BUSY_TIMEOUT_MS}",
        "foreign_keys=ON",
    ):
        connection.execute(f"PRAGMA {pragma}")
