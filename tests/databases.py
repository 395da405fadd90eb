"""Databases for tests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, Engine, event, text

from service.store.database import make_engine, migrate


def migrated_engine(url: str) -> Engine:
    """Create a database, or migrate an existing one, and return its engine."""
    engine = make_engine(url)
    try:
        migrate(engine)
    except BaseException:
        engine.dispose()
        raise
    return engine


def pretend_newer(url: str, oldest: str, revision: str = "9999_future") -> None:
    """Let a migrated database state that a newer version migrated it.

    Args:
        url: The database.
        oldest: The oldest revision whose programs can work with it.
        revision: The newest migration.
    """
    engine = make_engine(url)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = :new"), {"new": revision})
        connection.execute(text("UPDATE schema_compatibility SET oldest_revision = :oldest"), {"oldest": oldest})
    engine.dispose()


@contextmanager
def recorded_statements(engine: Engine) -> Iterator[list[str]]:
    """Yield a list to which each statement is appended that is executed during the block, in one line."""
    statements: list[str] = []

    def record(_c: Connection, _cursor: object, statement: str, *_: object) -> None:
        statements.append(" ".join(statement.split()))

    event.listen(engine, "before_cursor_execute", record)
    try:
        yield statements
    finally:
        event.remove(engine, "before_cursor_execute", record)
