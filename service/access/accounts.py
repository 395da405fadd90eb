"""Accounts of people: create them, check and change their passwords, disable them."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from datetime import UTC, datetime

from sqlalchemy import Engine

from service.access.errors import AccountRefused
from service.access.hashing import PASSWORDS, verify
from service.access.principal import ROLE_SCOPES, Role
from service.schemas.common import SYSTEM_AUTHOR
from service.store.access import AccountRecord, change_account, find_account, insert_account, list_accounts
from service.store.ids import new_id

MIN_PASSWORD_LENGTH = 12
MAX_PASSWORD_LENGTH = 256
MAX_NAME_LENGTH = 64
_RESERVED = {SYSTEM_AUTHOR, "local", "anonymous"}
_SHORTEST_NAME_IN_PASSWORD = 3


def comparable(name: str) -> str:
    """Return a name in the form in which names are compared: case, width and composition do not matter."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).strip().casefold())


def create_account(engine: Engine, name: str, role: Role, password: str) -> AccountRecord:
    """Create an account.

    Raises:
        AccountRefused: The name is taken or not valid, or the password is too weak.
        StoreUnavailable: It was not stored.
    """
    name = name.strip()
    if not name or len(name) > MAX_NAME_LENGTH or not name.isprintable():
        raise AccountRefused(f"the name must have 1 to {MAX_NAME_LENGTH} printable characters")
    if comparable(name) in _RESERVED:
        raise AccountRefused(f"the name {name!r} is reserved; choose another one")
    require_strong(password, name)
    account = AccountRecord(
        id=str(new_id()),
        name=name,
        name_key=comparable(name),
        role=role,
        password_hash=PASSWORDS.hash(_normal(password)),
        created_at=datetime.now(UTC),
    )
    if not insert_account(engine, account):
        raise AccountRefused(f"there is an account {name!r} already")
    return account


def all_accounts(engine: Engine) -> Sequence[AccountRecord]:
    """Return all accounts by name, disabled ones included.

    Raises:
        StoreUnavailable: The database cannot be read.
    """
    return list_accounts(engine)


def set_password(engine: Engine, name: str, password: str) -> None:
    """Set a new password. It ends all sessions of the account, and enables an account that was disabled.

    Raises:
        AccountRefused: There is no such account, or the password is too weak.
        StoreUnavailable: Nothing was changed.
    """
    account = _find(engine, name)
    require_strong(password, account.name)
    change_account(engine, account.id, password_hash=PASSWORDS.hash(_normal(password)), disabled_at=None)


def disable(engine: Engine, name: str) -> None:
    """Disable an account and end all its sessions.

    Raises:
        AccountRefused: There is no such account.
        StoreUnavailable: Nothing was changed.
    """
    change_account(engine, _find(engine, name).id, disabled_at=datetime.now(UTC))


def check_password(engine: Engine, name: str, password: str) -> AccountRecord | None:
    """Return the account if the password is right and the account is not disabled, otherwise None.

    The time is the same for an unknown name, a wrong password and a disabled account.

    Raises:
        StoreUnavailable: The database cannot be read.
    """
    account = find_account(engine, comparable(name))
    is_right = verify(PASSWORDS, None if account is None else account.password_hash, _normal(password))
    return account if is_right and account is not None and account.disabled_at is None else None


def require_strong(password: str, name: str) -> None:
    """Check that a password is long enough and does not contain the name.

    Length counts for more than kinds of characters (NIST SP 800-63B), so there are no rules about those.

    Raises:
        AccountRefused: It is too short, too long, or contains the name.
    """
    if len(_normal(password)) < MIN_PASSWORD_LENGTH:
        raise AccountRefused(f"the password must have at least {MIN_PASSWORD_LENGTH} characters")
    if len(password) > MAX_PASSWORD_LENGTH:
        raise AccountRefused(f"the password must have at most {MAX_PASSWORD_LENGTH} characters")
    key = comparable(name)
    if len(key) >= _SHORTEST_NAME_IN_PASSWORD and key in comparable(password):
        raise AccountRefused("the password must not contain the name of the account")
    if len(set(password)) < _SHORTEST_NAME_IN_PASSWORD:
        raise AccountRefused("the password must have at least three different characters")


def scopes_of(account: AccountRecord) -> frozenset[str]:
    """Return the scopes of an account's role; none for a role that this version does not have."""
    roles: dict[str, frozenset[str]] = {role: frozenset(scopes) for role, scopes in ROLE_SCOPES.items()}
    return roles.get(account.role, frozenset())


def _normal(password: str) -> str:
    # Keyboards differ in how they compose characters.
    return unicodedata.normalize("NFC", password)


def _find(engine: Engine, name: str) -> AccountRecord:
    account = find_account(engine, comparable(name))
    if account is None:
        raise AccountRefused(f"there is no account {name!r}; `plumbline account list` lists all accounts")
    return account
