"""Sessions of accounts: from log-in to log-out, or until they expire."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import cast

from sqlalchemy import Engine

from service.access.accounts import scopes_of
from service.access.cache import Identity
from service.access.errors import NotAuthenticated
from service.access.hashing import hash_token, new_token
from service.access.principal import Principal, Scope
from service.store.access import delete_session, find_session, insert_session, touch_session
from service.store.access_records import AccountRecord, SessionRecord
from service.store.audit import Actor

SEEN_INTERVAL = timedelta(minutes=1)
_ENDED = "The session has ended."


@dataclass(frozen=True)
class SessionLimits:
    """When sessions end.

    Attributes:
        idle: Time without a request of the person after which a session ends.
        longest: Time after the log-in after which a session ends, however it is used.
    """

    idle: timedelta
    longest: timedelta


@dataclass(frozen=True)
class NewSession:
    """A session that was just started.

    Attributes:
        token: The value of the session cookie. Only its hash is stored.
        identity: Who it belongs to, and until when.
    """

    token: str
    identity: Identity


def start_session(engine: Engine, account: AccountRecord, limits: SessionLimits, sender: Actor) -> NewSession | None:
    """Start a session for an account whose password was checked.

    Args:
        engine: The database.
        account: The account.
        limits: When the session ends.
        sender: From where the account logs in.

    Returns:
        The session; None if the password was changed or the account disabled meanwhile.

    Raises:
        StoreUnavailable: It was not stored.
    """
    token, now = new_token(), datetime.now(UTC)
    record = SessionRecord(hash_token(token), account.id, now, now, now + limits.longest)
    actor = replace(sender, kind="account", id=account.id, name=account.name)
    if not insert_session(engine, record, account.password_hash, actor):
        return None
    return NewSession(token, _identity(token, record, account, limits))


def verify_session(engine: Engine, token: str, limits: SessionLimits, *, is_background: bool = False) -> Identity:
    """Return the identity of a session, and record that it was used, at most once a minute.

    Args:
        engine: The database.
        token: The value of the session cookie.
        limits: When the session ends.
        is_background: Do not record it: nobody used the session, a page was refreshed.

    Raises:
        NotAuthenticated: There is no such session, or it has ended.
        StoreUnavailable: The database cannot be used.
    """
    token_hash, now = hash_token(token), datetime.now(UTC)
    found = find_session(engine, token_hash)
    if found is None:
        raise NotAuthenticated(_ENDED)
    session, account = found
    if account.disabled_at is not None or now >= min(session.expires_at, session.last_seen_at + limits.idle):
        delete_session(engine, token_hash)
        raise NotAuthenticated(_ENDED)
    if not is_background and now - session.last_seen_at >= min(SEEN_INTERVAL, limits.idle / 2):
        touch_session(engine, token_hash, now)
        session = SessionRecord(token_hash, account.id, session.created_at, now, session.expires_at)
    return _identity(token, session, account, limits)


def csrf_token_of(token: str) -> str:
    """Return the CSRF token of a session. It follows from the session token, so nothing is stored."""
    return hmac.new(token.encode(), b"plumbline csrf", hashlib.sha256).hexdigest()


def _identity(token: str, session: SessionRecord, account: AccountRecord, limits: SessionLimits) -> Identity:
    principal = Principal("account", account.id, account.name, cast("frozenset[Scope]", scopes_of(account)))
    return Identity(
        principal,
        session.token_hash,
        min(session.expires_at, session.last_seen_at + limits.idle),
        csrf_token_of(token),
        session.token_hash,
    )
