"""API keys, accounts and sessions. Rows of keys and accounts are never deleted: records name them as authors.

Every change is stored together with its entry in the audit log, which never contains a secret or a hash of one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from typing import Any, cast

from sqlalchemy import CursorResult, Engine, Executable, delete, exists, false, insert, or_, select, text, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session
from sqlalchemy.sql import ColumnElement

from service.store.access_records import ADMIN, AccountChange, AccountRecord, KeyRecord, SessionRecord
from service.store.advisory_locks import AdvisoryLock
from service.store.audit import Actor, AuditEntry, append_audit
from service.store.errors import LastAdmin, StoreUnavailable
from service.store.models import AccountRow, ApiKeyRow, SessionRow
from service.store.session import reading, transaction, writing

_KEYS, _ACCOUNTS, _SESSIONS = ApiKeyRow.__table__, AccountRow.__table__, SessionRow.__table__
_NO_CHANGE = update(AccountRow).where(false()).values(role="")


def has_credentials(engine: Engine) -> bool:
    """Return whether there was ever a key or an account, valid or not.

    Raises:
        StoreUnavailable: The database cannot be read.
    """
    query = select(or_(exists(select(_KEYS.c.id)), exists(select(_ACCOUNTS.c.id))))
    with reading(engine) as session:
        return bool(session.scalar(query))


def insert_key(engine: Engine, key: KeyRecord, actor: Actor, *, may_share_name: bool) -> str | None:
    """Store a new key, unless a valid key has its name.

    Returns:
        The id of the key that has the name; None if the new one was stored.

    Raises:
        StoreUnavailable: Nothing was stored.
    """
    with writing(engine, "the key cannot be stored") as session:
        _lock_accounts(session)
        same = select(_KEYS.c.id).where(_KEYS.c.name == key.name, *_valid_keys()).limit(1)
        if not may_share_name and (other := session.scalar(same)) is not None:
            return str(other)
        session.execute(insert(ApiKeyRow).values(**asdict(key)))
        append_audit(session, AuditEntry(actor, "key:create", object=key.id, after=key.grant))
    return None


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


def revoke_key(engine: Engine, key_id: str, at: datetime, actor: Actor) -> None:
    """Revoke a key. A key that is revoked already keeps the time of its revocation.

    Raises:
        StoreUnavailable: Nothing was stored.
    """
    is_valid = (_KEYS.c.id == key_id, _KEYS.c.revoked_at.is_(None))
    with writing(engine, "the key cannot be revoked") as session:
        if _count(session.execute(update(ApiKeyRow).where(*is_valid).values(revoked_at=at))):
            key = KeyRecord(**session.execute(select(_KEYS).where(_KEYS.c.id == key_id)).mappings().one())
            append_audit(session, AuditEntry(actor, "key:revoke", object=key_id, before=key.grant))


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


def insert_account(engine: Engine, account: AccountRecord, actor: Actor) -> bool:
    """Store a new account; return False if one with the same name exists.

    Raises:
        StoreUnavailable: Nothing was stored.
    """
    try:
        with writing(engine, "the account cannot be stored") as session:
            # The unique constraint decides between concurrent requests; a violation of it is logged.
            if session.scalar(select(exists().where(_ACCOUNTS.c.name_key == account.name_key))):
                return False
            session.execute(insert(AccountRow).values(**asdict(account)))
            append_audit(session, AuditEntry(actor, "account:create", object=account.name, after=account.facts))
    except StoreUnavailable as error:
        if isinstance(error.__cause__, IntegrityError) and find_account(engine, account.name_key) is not None:
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


def get_account(engine: Engine, account_id: str) -> AccountRecord | None:
    """Return an account by its id, or None.

    Raises:
        StoreUnavailable: The database cannot be read.
    """
    with reading(engine) as session:
        return _account(session, account_id)


def list_accounts(engine: Engine) -> Sequence[AccountRecord]:
    """Return all accounts by name.

    Raises:
        StoreUnavailable: The database cannot be read.
    """
    with reading(engine) as session:
        return [AccountRecord(**row) for row in session.execute(select(_ACCOUNTS).order_by("name_key")).mappings()]


def change_account(engine: Engine, account_id: str, change: AccountChange) -> AccountRecord:
    """Change an account and end its sessions, in one transaction. A change to the same values changes nothing.

    Returns:
        The account after the change.

    Raises:
        LastAdmin: No account and no key that can manage keys and accounts would be left.
        StoreUnavailable: Nothing was changed.
    """
    with writing(engine, "the account cannot be changed") as session:
        _lock_accounts(session)
        before = _account(session, account_id)
        assert before is not None, "accounts are never deleted"
        after = replace(before, **change.values)
        is_outdated = before.disabled_at is not None or before.password_hash != change.expected_hash
        if change.expected_hash is not None and is_outdated:
            return before
        if (after.password_hash, after.facts) == (before.password_hash, before.facts):
            return before
        session.execute(update(AccountRow).where(_ACCOUNTS.c.id == account_id).values(**change.values))
        if before.is_enabled_admin and not after.is_enabled_admin:
            _require_admin(session, before.name)
        ended = delete(SessionRow).where(_SESSIONS.c.account_id == account_id)
        if change.kept_session is not None:
            ended = ended.where(_SESSIONS.c.token_hash != change.kept_session)
        count = _count(session.execute(ended))
        entry = AuditEntry(
            change.actor,
            change.action,
            object=before.name,
            before=before.facts,
            after=after.facts | {"ended_sessions": count},
        )
        append_audit(session, entry)
        return after


def insert_session(engine: Engine, session: SessionRecord, password_hash: str, actor: Actor) -> bool:
    """Store a new session and the time of the log-in, and delete sessions that expired before.

    Args:
        engine: The database.
        session: The session.
        password_hash: The hash that the password was compared with.
        actor: The account, and from where it logs in.

    Returns:
        Whether the session was stored; False if the password was changed or the account disabled meanwhile.

    Raises:
        StoreUnavailable: Nothing was stored.
    """
    with writing(engine, "the session cannot be stored") as opened:
        is_same = (
            _ACCOUNTS.c.id == session.account_id,
            _ACCOUNTS.c.password_hash == password_hash,
            _ACCOUNTS.c.disabled_at.is_(None),
        )
        logged_in = update(AccountRow).where(*is_same).values(last_login_at=session.created_at)
        if not _count(opened.execute(logged_in)):
            return False
        opened.execute(delete(SessionRow).where(_SESSIONS.c.expires_at <= session.created_at))
        opened.execute(insert(SessionRow).values(**asdict(session)))
        append_audit(opened, AuditEntry(actor, "session:log-in", object=actor.name))
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


def delete_sessions(engine: Engine, account_id: str, actor: Actor) -> int:
    """End all sessions of an account; return their number.

    Raises:
        StoreUnavailable: None was ended.
    """
    with writing(engine, "the sessions cannot be ended") as session:
        count = _count(session.execute(delete(SessionRow).where(_SESSIONS.c.account_id == account_id)))
        after = {"ended_sessions": count}
        append_audit(session, AuditEntry(actor, "session:log-out-everywhere", object=actor.name, after=after))
        return count


def _account(session: Session, account_id: str) -> AccountRecord | None:
    row = session.execute(select(_ACCOUNTS).where(_ACCOUNTS.c.id == account_id)).mappings().one_or_none()
    return None if row is None else AccountRecord(**row)


def _lock_accounts(session: Session) -> None:
    """Exclude other changes of accounts until the transaction ends. Two of them could disable the last two admins."""
    if session.get_bind().dialect.name == "postgresql":
        session.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": AdvisoryLock.ACCOUNTS.value})
    else:
        # SQLite has one writer at a time. A statement that changes nothing takes its lock before anything is read.
        session.execute(_NO_CHANGE)


def _require_admin(session: Session, name: str) -> None:
    """Check that there is an enabled account, or a valid key without restriction, with the scope `admin`.

    Raises:
        LastAdmin: There is neither.
    """
    if session.scalar(select(exists().where(_ACCOUNTS.c.role == ADMIN, _ACCOUNTS.c.disabled_at.is_(None)))):
        return
    is_free = (_KEYS.c.products.is_(None), _KEYS.c.stations.is_(None))
    scopes = session.scalars(select(_KEYS.c.scopes).where(*_valid_keys(), *is_free))
    if not any(ADMIN in one for one in scopes):
        raise LastAdmin(name)


def _valid_keys() -> tuple[ColumnElement[bool], ...]:
    """Return the conditions on keys that were not revoked and have not expired."""
    return _KEYS.c.revoked_at.is_(None), or_(_KEYS.c.expires_at.is_(None), _KEYS.c.expires_at > datetime.now(UTC))


def _count(result: object) -> int:
    """Return the number of rows that a statement changed."""
    return cast("CursorResult[Any]", result).rowcount


def _execute(engine: Engine, statement: Executable, what: str) -> int:
    """Run one statement in a transaction; return the number of rows that it changed."""
    with transaction(engine, what) as connection:
        return _count(connection.execute(statement))
