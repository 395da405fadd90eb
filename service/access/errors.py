"""Errors of authentication and authorisation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from service.errors import PlumblineError
from service.schemas.violations import violation


class NotAuthenticated(PlumblineError):
    """The request has no credentials, and the endpoint needs them.

    Send an API key as `Authorization: Bearer KEY` or `X-API-Key: KEY`, or log in. `plumbline key create` creates a key.
    """

    slug = "not-authenticated"
    title = "Authentication required"
    status = 401

    def __init__(self, reason: str = "The request has no API key and no session.") -> None:
        super().__init__(
            f"{reason} Send an API key as `Authorization: Bearer KEY` or `X-API-Key: KEY`, or log in. "
            "`plumbline key create` on the service's machine creates a key."
        )


class InvalidKey(PlumblineError):
    """The API key is wrong, was revoked, or has expired.

    Check a key that is not known for missing characters. A key that was revoked or has expired must be replaced by a
    new one: `plumbline key create`. `plumbline key list` shows which keys are valid.
    """

    slug = "invalid-key"
    title = "API key is not valid"
    status = 401

    def __init__(self, reason: str = "The API key is not known.", *, was_valid: bool = False) -> None:
        advice = "It stays invalid; ask" if was_valid else "Check for missing characters, or ask"
        super().__init__(f"{reason} {advice} an administrator for a new key (`plumbline key create`).")


class ConflictingCredentials(PlumblineError):
    """The request has two different API keys.

    Send one key, either as `Authorization: Bearer KEY` or as `X-API-Key: KEY`.
    """

    slug = "conflicting-credentials"
    title = "Two different API keys"
    status = 400

    def __init__(self) -> None:
        super().__init__(
            "The headers of the request contain different API keys. Send one key, either as "
            "`Authorization: Bearer KEY` or as `X-API-Key: KEY`."
        )


class InsufficientScope(PlumblineError):
    """The key or account does not have the scope that the endpoint needs.

    `required` is the scope that the endpoint needs, `granted` lists those of the key or account. Use another key, or
    ask an administrator for one with this scope.
    """

    slug = "insufficient-scope"
    title = "Scope not granted"
    status = 403

    def __init__(self, required: str, granted: Iterable[str], name: str) -> None:
        scopes = sorted(granted)
        super().__init__(
            f"This request needs the scope {required!r}, and {name!r} has: {', '.join(scopes) or 'none'}. Use a key or "
            "an account with this scope.",
            required=required,
            granted=scopes,
        )


class NotPermitted(PlumblineError):
    """The API key is restricted to certain products or stations, and the request is about another one.

    State a product and a station that the key permits, or use a key without this restriction.
    """

    slug = "not-permitted"
    title = "Outside the restriction of the key"
    status = 403

    @classmethod
    def product(cls, product: str, permitted: Iterable[str]) -> NotPermitted:
        """Return the error for a product."""
        return cls(f"The API key does not permit the product {product!r}. It permits: {_listed(permitted)}.")

    @classmethod
    def station(cls, station: str | None, permitted: Iterable[str]) -> NotPermitted:
        """Return the error for the station of a part; None if the request states none."""
        given = "The request states no `station`" if station is None else f"The station {station!r} is not permitted"
        return cls(f"{given}, and the API key permits: {_listed(permitted)}. State one of them as `station`.")

    @classmethod
    def everything(cls) -> NotPermitted:
        """Return the error for an endpoint that shows or changes more than one product."""
        return cls(
            "The API key is restricted to certain products or stations, and this endpoint concerns all of them. Use a "
            "key without this restriction."
        )


class CsrfFailed(PlumblineError):
    """A request that changes something was authenticated by the session cookie, without the session's CSRF token.

    Send the `csrf_token` of the log-in, or of `GET /v1/access/me`, as the header `X-CSRF-Token`.
    """

    slug = "csrf-failed"
    title = "CSRF token missing or wrong"
    status = 403

    def __init__(self) -> None:
        super().__init__(
            "The header `X-CSRF-Token` is missing or belongs to another session. Send the `csrf_token` that "
            "GET /v1/access/me returns."
        )


class LoginFailed(PlumblineError):
    """The name or the password is wrong, or the account is disabled. Which of them is not disclosed.

    Try again, or ask an administrator: `plumbline account set-password NAME`.
    """

    slug = "login-failed"
    title = "Log-in failed"
    status = 401

    def __init__(self) -> None:
        super().__init__(
            "The name or the password is wrong, or the account is disabled. An administrator can set a new password "
            "with `plumbline account set-password NAME`."
        )


class TooManyLogins(PlumblineError):
    """Too many attempts to log in to this account, or from this address.

    Wait for `retry_after` seconds. `PLUMBLINE_LOGIN_ATTEMPTS` and `PLUMBLINE_LOGIN_WINDOW_S` set the limit.
    """

    slug = "too-many-logins"
    title = "Too many attempts to log in"
    status = 429

    def __init__(self, retry_after_s: float) -> None:
        super().__init__(
            f"There were too many attempts to log in. Try again after {retry_after_s:.0f} s.",
            retry_after=round(retry_after_s, 1),
        )


class NoSession(PlumblineError):
    """The request was not authenticated by a session, which this endpoint needs.

    Log-out and the change of the own password are for accounts. To make a key invalid, revoke it.
    """

    slug = "no-session"
    title = "No session"
    status = 409

    def __init__(self) -> None:
        super().__init__(
            "The request was not authenticated by a session, and this endpoint is for accounts that are logged in. To "
            "make a key invalid, revoke it."
        )


class KeyExists(PlumblineError):
    """There is a valid API key with this name already. Records name keys as authors, so names must be distinct.

    Choose another name, or revoke the other key first. The names of keys that were revoked or have expired are free.
    """

    slug = "key-exists"
    title = "API key exists already"
    status = 409

    def __init__(self, name: str, key_id: str) -> None:
        super().__init__(
            f"There is a valid API key {name!r} already, with the id {key_id}. Choose another name, or revoke that key "
            f"first: `plumbline key revoke {key_id}`.",
            name=name,
            key_id=key_id,
        )


class UnknownKey(PlumblineError):
    """There is no API key with this id or name, or several keys have the name.

    `GET /v1/access/keys` and `plumbline key list` list all keys.
    """

    slug = "unknown-key"
    title = "Unknown API key"
    status = 404

    def __init__(self, key: str, ids: Sequence[str] = ()) -> None:
        what = (
            f"Several API keys have the name {key!r}. State the id of one: {', '.join(ids)}."
            if ids
            else (f"There is no API key with the id or the name {key!r}.")
        )
        super().__init__(f"{what} `plumbline key list` and GET /v1/access/keys list all keys.", key_id=key)


class InvalidGrant(PlumblineError):
    """An API key cannot be created like this: scopes, restriction and expiry do not fit together.

    The message states what to change. `errors` contains the rule as a violation.
    """

    slug = "invalid-grant"
    title = "Key cannot be created"
    status = 422

    def __init__(self, field: str, rule: str, **params: str | float) -> None:
        found = violation((field,), rule, **params)
        super().__init__(f"The key cannot be created: {found['msg']}.", errors=[found])


class AccountRefused(PlumblineError):
    """An account cannot be created or changed like this: the name or the password does not meet the rules.

    The message states which rule, and what to change. `errors` contains the rule as a violation.
    """

    slug = "account-refused"
    title = "Name or password not accepted"
    status = 422

    def __init__(self, field: str, rule: str, **params: str | float) -> None:
        found = violation((field,), rule, **params)
        super().__init__(f"The account cannot be created or changed: {found['msg']}.", errors=[found])


class AccountExists(PlumblineError):
    """There is an account with this name already. Case, width and composition of the characters do not matter.

    Choose another name. An account that was disabled keeps its name; it can be enabled again.
    """

    slug = "account-exists"
    title = "Account exists already"
    status = 409

    def __init__(self, name: str) -> None:
        super().__init__(f"There is an account {name!r} already, maybe a disabled one. Choose another name.", name=name)


class UnknownAccount(PlumblineError):
    """There is no account with this name or id.

    `GET /v1/access/accounts` and `plumbline account list` list all accounts.
    """

    slug = "unknown-account"
    title = "Unknown account"
    status = 404

    def __init__(self, account: str) -> None:
        super().__init__(
            f"There is no account with the name or the id {account!r}. "
            "`plumbline account list` and GET /v1/access/accounts list all accounts.",
            account=account,
        )


class WrongPassword(PlumblineError):
    """The current password is wrong, so the password was not changed.

    Attempts count like attempts to log in. An administrator can set a new password.
    """

    slug = "wrong-password"
    title = "Current password is wrong"
    status = 403

    def __init__(self) -> None:
        super().__init__(
            "The current password is wrong, so the password was not changed. An administrator can set a new one with "
            "`plumbline account set-password NAME`."
        )


class AccessNotConfigured(Exception):
    """The service would be reachable from the network without any API key or account, so it does not start.

    Attributes:
        detail: The reason and what to do.
    """

    def __init__(self, host: str) -> None:
        self.detail = (
            f"PLUMBLINE_HOST is {host}, so the network can reach the service, but there is no API key and no account, "
            "so everyone could change what passes. Create the first key: `plumbline key create NAME --scope admin "
            "--create-database` (with the same PLUMBLINE_DATA and PLUMBLINE_DATABASE_URL), and start again. Or listen "
            "on this machine only (PLUMBLINE_HOST=127.0.0.1), or accept the risk with PLUMBLINE_INSECURE=1."
        )
        super().__init__(self.detail)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(repr(name) for name in sorted(names))
