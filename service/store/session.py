"""Database sessions and transactions. Every database failure becomes `StoreUnavailable`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.orm import Session

from service.store.errors import StoreUnavailable
from service.store.reasons import database_failure

_ATTEMPTS = 50
ResultT = TypeVar("ResultT")


@contextmanager
def reading(engine: Engine) -> Iterator[Session]:
    """Open a session for queries.

    Args:
        engine: The database.

    Raises:
        StoreUnavailable: The database cannot be read.
    """
    with _translated("the database cannot be read"), Session(engine) as session:
        yield session


@contextmanager
def querying(engine: Engine) -> Iterator[Connection]:
    """Open a connection below the ORM, for queries that run with each inspection.

    Args:
        engine: The database.

    Raises:
        StoreUnavailable: The database cannot be read.
    """
    with _translated("the database cannot be read"), engine.connect() as connection:
        yield connection


@contextmanager
def writing(engine: Engine, what: str) -> Iterator[Session]:
    """Open a session whose changes are committed together at the end of the block.

    Args:
        engine: The database.
        what: The first words of the error message if the database fails.

    Raises:
        StoreUnavailable: Nothing was stored.
    """
    with _translated(what), Session(engine) as session, session.begin():
        yield session


@contextmanager
def transaction(engine: Engine, what: str) -> Iterator[Connection]:
    """Open a transaction below the ORM, for statements that run often or change many rows.

    Args:
        engine: The database.
        what: The first words of the error message if the database fails.

    Raises:
        StoreUnavailable: Nothing was stored.
    """
    with _translated(what), engine.begin() as connection:
        yield connection


@contextmanager
def connected(engine: Engine, what: str) -> Iterator[Connection]:
    """Open a connection below the ORM on which the block begins its transactions itself.

    Args:
        engine: The database.
        what: The first words of the error message if the database fails.

    Raises:
        StoreUnavailable: What was not committed is not stored.
    """
    with _translated(what), engine.connect() as connection:
        yield connection


def retry_conflicts(write: Callable[[], ResultT]) -> ResultT:
    """Run a transaction again if it violates a unique constraint because of a concurrent one.

    Args:
        write: Runs the whole transaction, including the reads that it is based on.

    Raises:
        StoreUnavailable: The database cannot be used, or every attempt met a conflict.
    """
    attempt = 1
    while True:
        try:
            return write()
        except StoreUnavailable as error:
            if not isinstance(error.__cause__, IntegrityError):
                raise
            if attempt == _ATTEMPTS:
                raise StoreUnavailable("too many concurrent changes") from error
        attempt += 1


@contextmanager
def _translated(what: str) -> Iterator[None]:
    try:
        yield
    except SQLAlchemyError as error:
        raise database_failure(what, error) from error
