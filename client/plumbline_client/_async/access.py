"""API keys, accounts, and who sends the requests."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from plumbline_client._async.connection import AsyncConnection
from plumbline_client.calls import Call, given
from plumbline_client.schemas.access import (
    Account,
    AccountList,
    ApiKey,
    ApiKeyList,
    CreatedApiKey,
    Identification,
    RoleName,
    ScopeName,
)

_KEYS = "/v1/access/keys"
_ACCOUNTS = "/v1/access/accounts"


class AsyncAccessCalls(AsyncConnection):
    """The part of `AsyncClient` that deals with keys and accounts. All calls but `me` need the scope `admin`.

    Log-in and log-out are for browsers: a program sends a key.
    """

    async def me(self) -> Identification:
        """Return the key that the client sends, and what it may do."""
        return await self._load(Identification, Call("GET", "/v1/access/me"))

    async def keys(self) -> Sequence[ApiKey]:
        """Return all API keys without their secrets, newest first, revoked and expired ones included."""
        return (await self._load(ApiKeyList, Call("GET", _KEYS))).items

    async def create_key(
        self,
        name: str,
        scopes: Sequence[ScopeName],
        *,
        products: Sequence[str] | None = None,
        stations: Sequence[str] | None = None,
        expires_at: datetime | None = None,
    ) -> CreatedApiKey:
        """Create an API key. `key` of the result is shown once.

        Args:
            name: Name of the program or camera that uses the key.
            scopes: What it may do.
            products: Products that it may use; None for all.
            stations: Stations that it may use; None for all.
            expires_at: When it expires, with time zone; None for never.

        Raises:
            ServiceProblem: Name, scopes, restriction and expiry do not fit together.
        """
        body = {"name": name, "scopes": list(scopes)} | given(
            {
                "products": None if products is None else list(products),
                "stations": None if stations is None else list(stations),
                "expires_at": None if expires_at is None else expires_at.isoformat(),
            }
        )
        return await self._load(CreatedApiKey, Call("POST", _KEYS, json=body))

    async def revoke_key(self, key_id: str) -> ApiKey:
        """Revoke an API key. Revoking it again changes nothing.

        Raises:
            ServiceProblem: There is no such key.
        """
        return await self._load(ApiKey, Call("POST", f"{_KEYS}/{key_id}:revoke"))

    async def accounts(self) -> Sequence[Account]:
        """Return all accounts by name, disabled ones included."""
        return (await self._load(AccountList, Call("GET", _ACCOUNTS))).items

    async def create_account(self, name: str, role: RoleName, password: str) -> Account:
        """Create an account.

        Args:
            name: Name of the person.
            role: `operator`, `engineer` or `admin`.
            password: At least 12 characters.

        Raises:
            ServiceProblem: The name is taken, or name or password does not meet the rules.
        """
        body = {"name": name, "role": role, "password": password}
        return await self._load(Account, Call("POST", _ACCOUNTS, json=body))

    async def disable_account(self, account_id: str) -> Account:
        """Disable an account and end all its sessions.

        Raises:
            ServiceProblem: There is no such account, or it is the last administrator.
        """
        return await self._load(Account, Call("POST", f"{_ACCOUNTS}/{account_id}:disable"))

    async def enable_account(self, account_id: str) -> Account:
        """Enable an account that was disabled.

        Raises:
            ServiceProblem: There is no such account.
        """
        return await self._load(Account, Call("POST", f"{_ACCOUNTS}/{account_id}:enable"))

    async def set_account_role(self, account_id: str, role: RoleName) -> Account:
        """Give an account another role and end all its sessions.

        Raises:
            ServiceProblem: There is no such account, or it is the last administrator.
        """
        return await self._load(Account, Call("POST", f"{_ACCOUNTS}/{account_id}:role", json={"role": role}))

    async def set_account_password(self, account_id: str, password: str) -> Account:
        """Set a new password. All sessions of the account end; an account that was disabled is enabled again.

        Raises:
            ServiceProblem: There is no such account, or the password does not meet the rules.
        """
        return await self._load(
            Account, Call("POST", f"{_ACCOUNTS}/{account_id}:password", json={"password": password})
        )
