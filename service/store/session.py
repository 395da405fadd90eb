"""The one way to the database: a session or a transaction whose failures are the store's own error."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from service.store.errors import StoreUnavailable


@contextmanager
def reading(engine: Engine, what: str = "the database does not answer") -> Iterator[Session]:
    """Open a session for queries.

    Args:
        engine: The database.
        what: What cannot be done where the database fails, as the start of the error's sentence.

    Raises:
        StoreUnavailable: The database does not answer.
    """
    with _named(what), Session(engine) as session:
        yield session


@contextmanager
def writing(engine: Engine, what: str) -> Iterator[Session]:
    """Open a session whose changes are committed together when the block ends.

    Args:
        engine: The database.
        what: What cannot be done where the database fails, as the start of the error's sentence.

    Raises:
        StoreUnavailable: Nothing was stored.
    """
    with _named(what), Session(engine) as session, session.begin():
        yield session


@contextmanager
def transaction(engine: Engine, what: str) -> Iterator[Connection]:
    """Open a transaction below the ORM, for statements that run often or touch many rows.

    Args:
        engine: The database.
        what: What cannot be done where the database fails, as the start of the error's sentence.

    Raises:
        StoreUnavailable: Nothing was stored.
    """
    with _named(what), engine.begin() as connection:
        yield connection


@contextmanager
def _named(what: str) -> Iterator[None]:
    try:
        yield
    except SQLAlchemyError as error:
        raise StoreUnavailable(f"{what} ({error.__cause__ or error})") from error
