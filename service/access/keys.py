"""API keys: create, list, revoke and verify them."""

from __future__ import annotations

import re
import secrets
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import cast

from sqlalchemy import Engine

from service.access.cache import Identity
from service.access.errors import InvalidGrant, InvalidKey, KeyExists, UnknownKey
from service.access.hashing import KEYS, new_token, verify
from service.access.names import is_reserved
from service.access.principal import Principal, Scope
from service.store.access import find_key, insert_key, list_keys, revoke_key, touch_key
from service.store.access_records import KeyRecord
from service.store.audit import Actor

USED_INTERVAL = timedelta(minutes=1)
_ID_BYTES = 8
_KEY = re.compile(r"plumb_([0-9a-f]{16})_([0-9a-f]{64})")
_EVERY_STATION: frozenset[str] = frozenset({"engineer", "admin"})


@dataclass(frozen=True)
class Grant:
    """What a new key permits.

    Attributes:
        name: Name of the program or the camera that uses the key.
        scopes: The scopes.
        products: The products that it may use; None for all.
        stations: The stations that it may use; None for all.
        expires_at: When it expires; None for never.
    """

    name: str
    scopes: Collection[Scope]
    products: Collection[str] | None = None
    stations: Collection[str] | None = None
    expires_at: datetime | None = None

    def require_sound(self) -> None:
        """Check that the name is free, and that scopes, restriction and expiry fit together.

        Raises:
            InvalidGrant: They do not.
        """
        if is_reserved(self.name):
            raise InvalidGrant("name", "name_reserved", name=self.name)
        if not self.scopes:
            raise InvalidGrant("scopes", "grant_without_scope")
        if self.products is not None and not self.products:
            raise InvalidGrant("products", "grant_without_product")
        if self.stations is not None and not self.stations:
            raise InvalidGrant("stations", "grant_without_station")
        if self.products is not None and "admin" in self.scopes:
            raise InvalidGrant("scopes", "grant_of_admin")
        if self.stations is not None and (needless := _EVERY_STATION & set(self.scopes)):
            raise InvalidGrant("scopes", "grant_of_every_station", scope=sorted(needless)[0])
        if self.expires_at is not None and self.expires_at <= datetime.now(UTC):
            raise InvalidGrant("expires_at", "grant_expired", time=f"{self.expires_at:%Y-%m-%d %H:%M}")


@dataclass(frozen=True)
class NewKey:
    """A key that was just created.

    Attributes:
        key: The complete key. It is not stored and cannot be shown again.
        record: What is stored.
    """

    key: str
    record: KeyRecord


def create_key(engine: Engine, grant: Grant, actor: Actor, *, may_share_name: bool = False) -> NewKey:
    """Create an API key.

    Args:
        engine: The database.
        grant: What it permits.
        actor: Who creates it.
        may_share_name: Whether another valid key may have the same name, for a key that replaces a lost one.

    Raises:
        KeyExists: A valid key has the name.
        InvalidGrant: The name is reserved, or scopes, restriction and expiry do not fit together.
        StoreUnavailable: It was not stored.
    """
    grant.require_sound()
    key_id, secret = secrets.token_hex(_ID_BYTES), new_token()
    record = KeyRecord(
        id=key_id,
        name=grant.name,
        secret_hash=KEYS.hash(secret),
        scopes=sorted(set(grant.scopes)),
        created_at=datetime.now(UTC),
        created_by=actor.name,
        products=None if grant.products is None else sorted(set(grant.products)),
        stations=None if grant.stations is None else sorted(set(grant.stations)),
        expires_at=grant.expires_at,
    )
    other = insert_key(engine, record, actor, may_share_name=may_share_name)
    if other is not None:
        raise KeyExists(grant.name, other)
    return NewKey(f"plumb_{key_id}_{secret}", record)


def all_keys(engine: Engine) -> Sequence[KeyRecord]:
    """Return all keys, newest first, revoked and expired ones included.

    Raises:
        StoreUnavailable: The database cannot be read.
    """
    return list_keys(engine)


def revoke(engine: Engine, key: str, actor: Actor) -> KeyRecord:
    """Revoke a key and return it. Revoking it again changes nothing.

    Args:
        engine: The database.
        key: Its id, or its name if no other key has it. Of keys with the same name, those that are revoked do not count
            beside others.
        actor: Who revokes it.

    Raises:
        UnknownKey: There is no such key, or several have the name.
        StoreUnavailable: It was not revoked.
    """
    key_id = _id_of(engine, key)
    revoke_key(engine, key_id, datetime.now(UTC), actor)
    record = find_key(engine, key_id)
    assert record is not None, "keys are never deleted"
    return record


def _id_of(engine: Engine, key: str) -> str:
    if find_key(engine, key) is not None:
        return key
    named = [record for record in list_keys(engine) if record.name == key]
    found = [record.id for record in named if record.revoked_at is None] or [record.id for record in named[:1]]
    if len(found) != 1:
        raise UnknownKey(key, found)
    return found[0]


def key_id_of(key: str) -> str | None:
    """Return the public id in a key, or None if the text does not have the form of a key."""
    found = _KEY.fullmatch(key)
    return None if found is None else found[1]


def verify_key(engine: Engine, key: str, known: Identity | None) -> Identity:
    """Return the identity of a key.

    The time is the same for an unknown id, a wrong secret and a key that was revoked.

    Args:
        engine: The database.
        key: The key as it was sent.
        known: The identity of the same key from an earlier check; the secret is not compared with the same hash again.

    Raises:
        InvalidKey: It is not known, was revoked, or has expired.
        StoreUnavailable: The database cannot be read.
    """
    found = _KEY.fullmatch(key)
    if found is None:
        raise InvalidKey("The API key does not have the form plumb_ID_SECRET.")
    key_id, secret = found[1], found[2]
    record = find_key(engine, key_id)
    is_known = record is not None and known is not None and known.stored_hash == record.secret_hash
    if not is_known and not verify(KEYS, None if record is None else record.secret_hash, secret):
        raise InvalidKey
    assert record is not None
    now = datetime.now(UTC)
    # Only who has the secret learns that the key was valid once.
    if record.revoked_at is not None:
        reason = f"The API key {record.name!r} was revoked on {record.revoked_at:%Y-%m-%d at %H:%M} UTC."
        raise InvalidKey(reason, was_valid=True)
    if record.expires_at is not None and record.expires_at <= now:
        raise expired(record.name, record.expires_at)
    principal = Principal(
        "key",
        record.id,
        record.name,
        cast("frozenset[Scope]", frozenset(record.scopes)),
        None if record.products is None else frozenset(record.products),
        None if record.stations is None else frozenset(record.stations),
    )
    return Identity(principal, record.secret_hash, record.expires_at)


def expired(name: str, at: datetime) -> InvalidKey:
    """Return the error for a key that has expired."""
    return InvalidKey(f"The API key {name!r} expired on {at:%Y-%m-%d at %H:%M} UTC.", was_valid=True)


def record_use(engine: Engine, key_id: str) -> None:
    """Record that a key was used, at most once a minute.

    Raises:
        StoreUnavailable: It was not recorded.
    """
    touch_key(engine, key_id, datetime.now(UTC), USED_INTERVAL)
