"""Attempts to log in, counted for all processes that share a PostgreSQL database."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import DateTime, Engine, and_, delete, extract, func, insert, select, text, update
from sqlalchemy.sql import ColumnElement

from service.store.advisory_locks import AdvisoryLock
from service.store.models import LoginAttemptRow
from service.store.session import transaction

_TABLE = LoginAttemptRow.__table__
_FAILED = "attempts to log in cannot be counted"


@dataclass(frozen=True)
class LoginAttempt:
    """An attempt to log in.

    Attributes:
        account: Digest of the name.
        client: Digest of the client.
        password: Digest of the stored hash of the account's password; empty if there is no such account.
    """

    account: str
    client: str
    password: str


@dataclass(frozen=True)
class LoginLimits:
    """Most attempts in the window.

    Attributes:
        pair: Of one client for one account.
        client: Of one client for all accounts.
        account: Of all clients for one account.
        window: Length of the window.
    """

    pair: int
    client: int
    account: int
    window: timedelta


def count_attempt(engine: Engine, attempt: LoginAttempt, limits: LoginLimits) -> float:
    """Count an attempt unless a limit is reached.

    Returns:
        Seconds until the next attempt may be made; 0 if this one was counted.

    Raises:
        StoreUnavailable: It was not counted.
    """
    row, now = LoginAttemptRow, func.clock_timestamp(type_=DateTime(timezone=True))
    is_client = row.client == attempt.client
    is_account = and_(row.account == attempt.account, row.password == attempt.password)
    groups = (
        (and_(is_account, is_client, ~row.is_settled), limits.pair),
        (is_client, limits.client),
        (is_account, limits.account),
    )
    columns = [part for where, _ in groups for part in (_count(where), _age_s(where, now))]
    with transaction(engine, _FAILED) as connection:
        # One at a time: attempts at the same time at several processes must not pass the limit together.
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": AdvisoryLock.LOGINS.value})
        connection.execute(delete(row).where(row.tried_at <= now - limits.window))
        found = connection.execute(select(*columns)).one()
        ages = [found[2 * number + 1] for number, (_, limit) in enumerate(groups) if found[2 * number] >= limit]
        if ages:
            # Not 0, which would mean that the attempt was counted.
            return max(0.001, *(limits.window.total_seconds() - float(age) for age in ages))
        connection.execute(
            insert(_TABLE).values(  # type: ignore[arg-type]  # a Table, though declared as FromClause
                account=attempt.account,
                client=attempt.client,
                password=attempt.password,
                tried_at=now,
                is_settled=False,
            )
        )
    return 0.0


def take_back_attempt(engine: Engine, account: str, client: str) -> None:
    """Take back the newest attempt of a client for an account, and count the others for the client only.

    Raises:
        StoreUnavailable: Nothing was changed.
    """
    row = LoginAttemptRow
    is_pair = and_(row.account == account, row.client == client)
    newest = select(func.max(row.id)).where(is_pair).scalar_subquery()
    with transaction(engine, _FAILED) as connection:
        connection.execute(delete(row).where(row.id == newest))
        connection.execute(update(row).where(is_pair).values(is_settled=True))


def _count(where: ColumnElement[bool]) -> ColumnElement[int]:
    return select(func.count()).select_from(_TABLE).where(where).scalar_subquery()


def _age_s(where: ColumnElement[bool], now: ColumnElement[datetime]) -> ColumnElement[Any]:
    """Return the age of the oldest attempt in seconds."""
    return select(extract("epoch", now - func.min(LoginAttemptRow.tried_at))).where(where).scalar_subquery()
