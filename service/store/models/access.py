"""Tables of API keys, accounts and sessions."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import (
    ForeignKey,
    Index,
    String,
    UniqueConstraint,
)
from sqlalchemy.orm import Mapped, mapped_column

from service.store.models.base import Base


class ApiKeyRow(Base):
    """An API key. It is never deleted, because records name it as their author."""

    __tablename__ = "api_keys"

    id: Mapped[str] = mapped_column(String(16), primary_key=True)
    """The public part of the key."""
    name: Mapped[str] = mapped_column(String(128))
    secret_hash: Mapped[str] = mapped_column(String(255))
    """argon2id hash of the secret part of the key."""
    scopes: Mapped[list[str]]
    products: Mapped[list[str] | None]
    """Products that the key may use; None for all."""
    stations: Mapped[list[str] | None]
    """Stations that the key may use; None for all."""
    created_at: Mapped[datetime]
    created_by: Mapped[str] = mapped_column(String(128))
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]
    """When the key was used last, exact to a minute."""


class AccountRow(Base):
    """The account of a person. It is never deleted, because records name it as their author."""

    __tablename__ = "accounts"
    __table_args__ = (UniqueConstraint("name_key"),)

    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    name: Mapped[str] = mapped_column(String(128))
    name_key: Mapped[str] = mapped_column(String(255))
    """The name in the form in which names are compared."""
    role: Mapped[str] = mapped_column(String(16))
    password_hash: Mapped[str] = mapped_column(String(255))
    """argon2id hash of the password."""
    created_at: Mapped[datetime]
    disabled_at: Mapped[datetime | None]
    last_login_at: Mapped[datetime | None]


class LoginAttemptRow(Base):
    """An attempt to log in, for the limits that several processes share. It is deleted when its window has passed.

    Names and addresses are stored as short digests, so that a password that was typed as the name is not readable. Who
    reads the table can still test guesses.
    """

    __tablename__ = "login_attempts"
    __table_args__ = (Index(None, "account"), Index(None, "client"), Index(None, "tried_at"))

    id: Mapped[int] = mapped_column(primary_key=True, init=False)
    account: Mapped[str] = mapped_column(String(16))
    client: Mapped[str] = mapped_column(String(16))
    password: Mapped[str] = mapped_column(String(16))
    """Which password the account had. Attempts before it was changed do not count for the account."""
    tried_at: Mapped[datetime]
    is_settled: Mapped[bool]
    """Whether the client logged in to the account afterwards. Then the attempt does not count for the two together."""


class SessionRow(Base):
    """A session of an account, from log-in to log-out or expiry."""

    __tablename__ = "sessions"
    __table_args__ = (Index(None, "account_id"),)

    token_hash: Mapped[str] = mapped_column(String(64), primary_key=True)
    """SHA-256 of the session token, which is random."""
    account_id: Mapped[str] = mapped_column(String(36), ForeignKey("accounts.id", ondelete="CASCADE"))
    created_at: Mapped[datetime]
    last_seen_at: Mapped[datetime]
    """When the session was used last, exact to a minute."""
    expires_at: Mapped[datetime]
    """When the session ends, however it is used."""
