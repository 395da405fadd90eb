"""API keys, accounts and sessions. Rows of keys and accounts are never deleted: records name them as authors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from typing import Any, cast

from sqlalchemy import CursorResult, Engine, Executable, delete, exists, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from service.store.errors import StoreUnavailable
from service.store.models import AccountRow, ApiKeyRow, SessionRow
from service.store.session import reading, transaction

_KEYS, _ACCOUNTS, _SESSIONS = ApiKeyRow.__table__, AccountRow.__table__, SessionRow.__table__


@dataclass(frozen=True)
class KeyRecord:
    """A stored API key. The attributes are those of `ApiKeyRow`."""

    id: str
    name: str
    secret_hash: str = field(repr=False)
    scopes: Sequence[str]
    created_at: datetime
    created_by: str
    products: Sequence[str] | None = None
    stations: Sequence[str] | None = None
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    last_used_at: datetime | None = None


@dataclass(frozen=True)
class AccountRecord:
    """A stored account. The attributes are those of `AccountRow`."""

    id: str
    name: str
    name_key: str
    role: str
    password_hash: str = field(repr=False)
    created_at: datetime
    disabled_at: datetime | None = None
    last_login_at: datetime | None = None


@dataclass(frozen=True)
class SessionRecord:
    """A stored session. The attributes are those of `SessionRow`."""

    token_hash: str = field(repr=False)
    account_id: str
    created_at: datetime
    last_seen_at: datetime
    expires_at: datetime


def has_credentials(engine: Engine) -> bool:
    """Return whether there was ever a key or an account, valid or not.

    Raises:
        StoreUnavailable: The database cannot be read.
    """
    query = select(or_(exists(select(_KEYS.c.id)), exists(select(_ACCOUNTS.c.id))))
    with reading(engine) as session:
        return bool(session.scalar(query))


def insert_key(engine: Engine, key: KeyRecord) -> None:
    """Store a new key.

    Raises:
        StoreUnavailable: Nothing was stored.
    """
    with transaction(engine, "the key cannot be stored") as connection:
        connection.execute(insert(ApiKeyRow).values(**asdict(key)))


def find_key(engine: Engine, key_id: str) -> KeyRecord | None:
    """Return a key by its id, or None.

    Raises:
        StoreUnavailable: The database cannot be read.
    """
    with reading(engine) as session:
        row = session.execute(select(_KEYS).where(_KEYS.c.id == key_id)).mappings().one_or_none()
        return None if row is None else KeyRecord(**row)


def list_keys(engine: Engine) -> Sequence[KeyRecord]:
    """Return all keys, newest first.

    Raises:
        StoreUnavailable: The database cannot be read.
    """
    with reading(engine) as session:
        rows = session.execute(select(_KEYS).order_by(_KEYS.c.created_at.desc(), _KEYS.c.id)).mappings()
        return [KeyRecord(**row) for row in rows]


def revoke_key(engine: Engine, key_id: str, at: datetime) -> None:
    """Revoke a key. A key that is revoked already keeps the time of its revocation.

    Raises:
        StoreUnavailable: Nothing was stored.
    """
    _execute(
        engine,
        update(ApiKeyRow).where(_KEYS.c.id == key_id, _KEYS.c.revoked_at.is_(None)).values(revoked_at=at),
        "the key cannot be revoked",
    )


def touch_key(engine: Engine, key_id: str, at: datetime, interval: timedelta) -> None:
    """Record that a key was used, unless that was recorded within the interval before.

    Raises:
        StoreUnavailable: Nothing was stored.
    """
    is_due = or_(_KEYS.c.last_used_at.is_(None), _KEYS.c.last_used_at <= at - interval)
    _execute(
        engine,
        update(ApiKeyRow).where(_KEYS.c.id == key_id, is_due).values(last_used_at=at),
        "the use of a key cannot be recorded",
    )


def insert_account(engine: Engine, account: AccountRecord) -> bool:
    """Store a new account; return False if one with the same name exists.

    Raises:
        StoreUnavailable: Nothing was stored.
    """
    try:
        with transaction(engine, "the account cannot be stored") as connection:
            connection.execute(insert(AccountRow).values(**asdict(account)))
    except StoreUnavailable as error:
        if isinstance(error.__cause__, IntegrityError):
            return False
        raise
    return True


def find_account(engine: Engine, name_key: str) -> AccountRecord | None:
    """Return an account by its name in comparable form, or None.

    Raises:
        StoreUnavailable: The database cannot be read.
    """
    with reading(engine) as session:
        row = session.execute(select(_ACCOUNTS).where(_ACCOUNTS.c.name_key == name_key)).mappings().one_or_none()
        return None if row is None else AccountRecord(**row)


def list_accounts(engine: Engine) -> Sequence[AccountRecord]:
    """Return all accounts by name.

    Raises:
        StoreUnavailable: The database cannot be read.
    """
    with reading(engine) as session:
        return [AccountRecord(**row) for row in session.execute(select(_ACCOUNTS).order_by("name_key")).mappings()]


def change_account(engine: Engine, account_id: str, **values: Any) -> None:
    """Change columns of an account and end all its sessions, in one transaction.

    Raises:
        StoreUnavailable: Nothing was changed.
    """
    with transaction(engine, "the account cannot be changed") as connection:
        connection.execute(update(AccountRow).where(_ACCOUNTS.c.id == account_id).values(**values))
        connection.execute(delete(SessionRow).where(_SESSIONS.c.account_id == account_id))


def insert_session(engine: Engine, session: SessionRecord, password_hash: str) -> bool:
    """Store a new session and the time of the log-in, and delete sessions that expired before.

    Args:
        engine: The database.
        session: The session.
        password_hash: The hash that the password was compared with.

    Returns:
        Whether the session was stored; False if the password was changed or the account disabled meanwhile.

    Raises:
        StoreUnavailable: Nothing was stored.
    """
    with transaction(engine, "the session cannot be stored") as connection:
        is_same = (
            _ACCOUNTS.c.id == session.account_id,
            _ACCOUNTS.c.password_hash == password_hash,
            _ACCOUNTS.c.disabled_at.is_(None),
        )
        changed = connection.execute(update(AccountRow).where(*is_same).values(last_login_at=session.created_at))
        if not changed.rowcount:
            return False
        connection.execute(delete(SessionRow).where(_SESSIONS.c.expires_at <= session.created_at))
        connection.execute(insert(SessionRow).values(**asdict(session)))
    return True


def find_session(engine: Engine, token_hash: str) -> tuple[SessionRecord, AccountRecord] | None:
    """Return a session with its account, or None.

    Raises:
        StoreUnavailable: The database cannot be read.
    """
    with reading(engine) as session:
        row = session.execute(select(_SESSIONS).where(_SESSIONS.c.token_hash == token_hash)).mappings().one_or_none()
        if row is None:
            return None
        found = SessionRecord(**row)
        owner = session.execute(select(_ACCOUNTS).where(_ACCOUNTS.c.id == found.account_id)).mappings().one()
        return found, AccountRecord(**owner)


def touch_session(engine: Engine, token_hash: str, at: datetime) -> None:
    """Record when a session was used last.

    Raises:
        StoreUnavailable: Nothing was stored.
    """
    _execute(
        engine,
        update(SessionRow).where(_SESSIONS.c.token_hash == token_hash).values(last_seen_at=at),
        "the use of a session cannot be recorded",
    )


def delete_session(engine: Engine, token_hash: str) -> None:
    """End a session.

    Raises:
        StoreUnavailable: It was not ended.
    """
    _execute(engine, delete(SessionRow).where(_SESSIONS.c.token_hash == token_hash), "the session cannot be ended")


def delete_sessions(engine: Engine, account_id: str) -> int:
    """End all sessions of an account; return their number.

    Raises:
        StoreUnavailable: None was ended.
    """
    ended = delete(SessionRow).where(_SESSIONS.c.account_id == account_id)
    return _execute(engine, ended, "the sessions cannot be ended")


def _execute(engine: Engine, statement: Executable, what: str) -> int:
    """Run one statement in a transaction; return the number of rows that it changed."""
    with transaction(engine, what) as connection:
        return cast("CursorResult[Any]", connection.execute(statement)).rowcount
