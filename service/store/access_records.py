"""Records of API keys, accounts and sessions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from service.store.audit import Actor, AuditAction

ADMIN = "admin"
"""Role of the accounts that manage keys and accounts."""


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

    @property
    def grant(self) -> dict[str, Any]:
        """What the key permits, JSON-serialisable."""
        return {
            "name": self.name,
            "scopes": list(self.scopes),
            "products": None if self.products is None else list(self.products),
            "stations": None if self.stations is None else list(self.stations),
            "expires_at": None if self.expires_at is None else self.expires_at.isoformat(),
        }


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

    @property
    def is_enabled_admin(self) -> bool:
        """Whether the account can manage keys and accounts now."""
        return self.role == ADMIN and self.disabled_at is None

    @property
    def facts(self) -> dict[str, Any]:
        """What may change and is no secret, JSON-serialisable."""
        return {"role": self.role, "enabled": self.disabled_at is None}


@dataclass(frozen=True)
class AccountChange:
    """A change of an account.

    Attributes:
        action: What kind of change it is.
        actor: Who makes it.
        values: The new values of columns.
        kept_session: Hash of the token of a session that does not end; None to end all sessions of the account.
        expected_hash: The hash of the password that the change is based on; if the account was disabled or has another
            password, nothing is changed. None to accept any.
    """

    action: AuditAction
    actor: Actor
    values: Mapping[str, Any]
    kept_session: str | None = None
    expected_hash: str | None = None


@dataclass(frozen=True)
class SessionRecord:
    """A stored session. The attributes are those of `SessionRow`."""

    token_hash: str = field(repr=False)
    account_id: str
    created_at: datetime
    last_seen_at: datetime
    expires_at: datetime
