"""Accounts of people: create them, check and change their passwords, disable them."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from datetime import UTC, datetime

from sqlalchemy import Engine

from service.access.errors import AccountExists, AccountRefused, UnknownAccount
from service.access.hashing import PASSWORDS, verify
from service.access.names import comparable, is_reserved
from service.access.principal import ROLE_SCOPES, Role
from service.store.access import change_account, find_account, get_account, insert_account, list_accounts
from service.store.access_records import AccountChange, AccountRecord
from service.store.audit import Actor
from service.store.ids import new_id

MIN_PASSWORD_LENGTH = 12
MAX_PASSWORD_LENGTH = 256
MAX_NAME_LENGTH = 64
_SHORTEST_NAME_IN_PASSWORD = 3


def create_account(engine: Engine, name: str, role: Role, password: str, actor: Actor) -> AccountRecord:
    """Create an account.

    Args:
        engine: The database.
        name: Its name.
        role: Its role.
        password: Its password.
        actor: Who creates it.

    Raises:
        AccountRefused: The name is not valid, or the password is too weak.
        AccountExists: The name is taken.
        StoreUnavailable: It was not stored.
    """
    name = name.strip()
    if not name or len(name) > MAX_NAME_LENGTH or not name.isprintable():
        raise AccountRefused("name", "name_not_printable", maximum=MAX_NAME_LENGTH)
    if is_reserved(name):
        raise AccountRefused("name", "name_reserved", name=name)
    require_strong(password, name)
    account = AccountRecord(
        id=str(new_id()),
        name=name,
        name_key=comparable(name),
        role=role,
        password_hash=PASSWORDS.hash(_normal(password)),
        created_at=datetime.now(UTC),
    )
    if not insert_account(engine, account, actor):
        raise AccountExists(name)
    return account


def all_accounts(engine: Engine) -> Sequence[AccountRecord]:
    """Return all accounts by name, disabled ones included.

    Raises:
        StoreUnavailable: The database cannot be read.
    """
    return list_accounts(engine)


def account_of(engine: Engine, account: str) -> AccountRecord:
    """Return an account by its id or its name.

    Raises:
        UnknownAccount: There is no such account.
        StoreUnavailable: The database cannot be read.
    """
    found = get_account(engine, account) or find_account(engine, comparable(account))
    if found is None:
        raise UnknownAccount(account)
    return found


def set_password(engine: Engine, name: str, password: str, actor: Actor) -> AccountRecord:
    """Set a new password. It ends all sessions of the account, and enables an account that was disabled.

    Raises:
        UnknownAccount: There is no such account.
        AccountRefused: The password is too weak.
        StoreUnavailable: Nothing was changed.
    """
    account = account_of(engine, name)
    require_strong(password, account.name)
    values = {"password_hash": PASSWORDS.hash(_normal(password)), "disabled_at": None}
    return change_account(engine, account.id, AccountChange("account:password", actor, values))


def change_own_password(engine: Engine, name: str, current: str, new: str, actor: Actor, *, kept_session: str) -> bool:
    """Set a new password if the current one is right, and end the other sessions of the account.

    Args:
        engine: The database.
        name: Name of the account.
        current: The current password.
        new: The new password.
        actor: The account.
        kept_session: Hash of the token of the session that does not end.

    Returns:
        Whether the current password was right and the account is not disabled.

    Raises:
        AccountRefused: The new password is too weak.
        StoreUnavailable: Nothing was changed.
    """
    account = check_password(engine, name, current)
    if account is None:
        return False
    require_strong(new, account.name)
    new_hash = PASSWORDS.hash(_normal(new))
    change = AccountChange("account:password", actor, {"password_hash": new_hash}, kept_session, account.password_hash)
    return change_account(engine, account.id, change).password_hash == new_hash


def disable(engine: Engine, name: str, actor: Actor) -> AccountRecord:
    """Disable an account and end all its sessions.

    Raises:
        UnknownAccount: There is no such account.
        LastAdmin: No account and no key that can manage keys and accounts would be left.
        StoreUnavailable: Nothing was changed.
    """
    change = AccountChange("account:disable", actor, {"disabled_at": datetime.now(UTC)})
    return change_account(engine, account_of(engine, name).id, change)


def enable(engine: Engine, name: str, actor: Actor) -> AccountRecord:
    """Enable an account that was disabled. Its password stays the same.

    Raises:
        UnknownAccount: There is no such account.
        StoreUnavailable: Nothing was changed.
    """
    return change_account(
        engine, account_of(engine, name).id, AccountChange("account:enable", actor, {"disabled_at": None})
    )


def set_role(engine: Engine, name: str, role: Role, actor: Actor) -> AccountRecord:
    """Give an account another role and end all its sessions.

    Raises:
        UnknownAccount: There is no such account.
        LastAdmin: No account and no key that can manage keys and accounts would be left.
        StoreUnavailable: Nothing was changed.
    """
    return change_account(engine, account_of(engine, name).id, AccountChange("account:role", actor, {"role": role}))


def check_password(engine: Engine, name: str, password: str) -> AccountRecord | None:
    """Return the account if the password is right and the account is not disabled, otherwise None.

    The time is the same for an unknown name, a wrong password and a disabled account.

    Raises:
        StoreUnavailable: The database cannot be read.
    """
    account = find_account(engine, comparable(name))
    is_right = verify(PASSWORDS, None if account is None else account.password_hash, _normal(password))
    return account if is_right and account is not None and account.disabled_at is None else None


def password_hash_of(engine: Engine, name: str) -> str | None:
    """Return the stored hash of an account's password; None if there is no such account.

    Raises:
        StoreUnavailable: The database cannot be read.
    """
    account = find_account(engine, comparable(name))
    return None if account is None else account.password_hash


def require_strong(password: str, name: str) -> None:
    """Check that a password is long enough and does not contain the name.

    Length counts for more than kinds of characters (NIST SP 800-63B), so there are no rules about those.

    Raises:
        AccountRefused: It is too short, too long, or contains the name.
    """
    if len(_normal(password)) < MIN_PASSWORD_LENGTH:
        raise AccountRefused("password", "password_too_short", minimum=MIN_PASSWORD_LENGTH)
    if len(password) > MAX_PASSWORD_LENGTH:
        raise AccountRefused("password", "password_too_long", maximum=MAX_PASSWORD_LENGTH)
    key = comparable(name)
    if len(key) >= _SHORTEST_NAME_IN_PASSWORD and key in comparable(password):
        raise AccountRefused("password", "password_has_name")
    if len(set(password)) < _SHORTEST_NAME_IN_PASSWORD:
        raise AccountRefused("password", "password_too_uniform")


def scopes_of(account: AccountRecord) -> frozenset[str]:
    """Return the scopes of an account's role; none for a role that this version does not have."""
    roles: dict[str, frozenset[str]] = {role: frozenset(scopes) for role, scopes in ROLE_SCOPES.items()}
    return roles.get(account.role, frozenset())


def _normal(password: str) -> str:
    # Keyboards differ in how they compose characters.
    return unicodedata.normalize("NFC", password)
