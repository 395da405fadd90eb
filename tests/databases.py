"""Databases for tests."""

from __future__ import annotations

from sqlalchemy import Engine

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
