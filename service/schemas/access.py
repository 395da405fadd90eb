"""API keys, accounts, and who is logged in."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr

from service.schemas.common import Author, Label, Name, ResponseModel, UtcDatetime

ScopeName = Literal["inspect", "review", "engineer", "admin"]
RoleName = Literal["operator", "engineer", "admin"]
Password = Annotated[SecretStr, Field(min_length=1, max_length=1024)]


class ApiKeyRequest(BaseModel):
    """What a new API key permits."""

    model_config = ConfigDict(extra="forbid")

    name: Author = Field(description="Name of the program or camera that uses the key; the author of its changes.")
    scopes: list[ScopeName] = Field(
        min_length=1,
        max_length=4,
        description="`inspect`: send images and read results. `review`: label inspections. `engineer`: change recipes "
        "and bundles. `admin`: manage keys. Each scope is granted on its own.",
    )
    products: list[Name] | None = Field(
        default=None, min_length=1, max_length=1000, description="Products that the key may use; null for all."
    )
    stations: list[Label] | None = Field(
        default=None,
        min_length=1,
        max_length=1000,
        description="Stations that the key may use; null for all. A key with one station need not state it.",
    )
    expires_at: UtcDatetime | None = Field(default=None, description="When the key expires; null for never.")


class ApiKey(ResponseModel):
    """An API key without its secret."""

    id: str = Field(description="Public part of the key.")
    name: str
    scopes: list[ScopeName]
    products: list[str] | None = Field(description="Products that the key may use; null for all.")
    stations: list[str] | None = Field(description="Stations that the key may use; null for all.")
    created_at: datetime
    created_by: str = Field(description="Key or account that created it, or the user of the command line.")
    expires_at: datetime | None
    revoked_at: datetime | None = Field(description="When it was revoked; null if it was not.")
    last_used_at: datetime | None = Field(description="When it was used last, exact to a minute; null for never.")


class CreatedApiKey(ApiKey):
    """A new API key with its secret."""

    key: str = Field(description="The complete key. It is shown once and cannot be read again.")
    warnings: list[str] = Field(description="What may be a mistake: products of the restriction that do not exist.")


class ApiKeyList(ResponseModel):
    """All API keys, newest first, revoked and expired ones included."""

    items: list[ApiKey]


class LogIn(BaseModel):
    """Name and password of an account."""

    model_config = ConfigDict(extra="forbid")

    name: Label
    password: Password


class AccountRequest(BaseModel):
    """A new account."""

    model_config = ConfigDict(extra="forbid")

    name: Author = Field(description="Name of the person, at most 64 characters; the author of their changes.")
    role: RoleName = Field(
        description="`operator`: inspect and review. `engineer`: also change recipes and bundles. `admin`: everything."
    )
    password: Password = Field(description="At least 12 characters. It must not contain the name.")


class RoleChange(BaseModel):
    """The new role of an account."""

    model_config = ConfigDict(extra="forbid")

    role: RoleName


class PasswordChange(BaseModel):
    """The new password of an account, set by an administrator."""

    model_config = ConfigDict(extra="forbid")

    password: Password = Field(description="At least 12 characters. It must not contain the name.")


class OwnPasswordChange(BaseModel):
    """The new password of the account that is logged in."""

    model_config = ConfigDict(extra="forbid")

    current_password: Password
    new_password: Password = Field(description="At least 12 characters. It must not contain the name.")


class Account(ResponseModel):
    """An account without its password."""

    id: str
    name: str
    role: str = Field(description="`operator`, `engineer` or `admin`.")
    created_at: datetime
    disabled_at: datetime | None = Field(description="When it was disabled; null if it is enabled.")
    last_login_at: datetime | None = Field(description="Time of the last log-in; null for never.")


class AccountList(ResponseModel):
    """All accounts by name, disabled ones included."""

    items: list[Account]


class Identification(ResponseModel):
    """Who sends the request."""

    kind: Literal["key", "account", "local"] = Field(
        description="`local`: the service has neither keys nor accounts, so it needs no credentials."
    )
    id: str
    name: str
    scopes: list[ScopeName]
    products: list[str] | None = Field(description="Products that may be used; null for all.")
    stations: list[str] | None = Field(description="Stations that may be used; null for all.")
    expires_at: datetime | None = Field(
        description="When the key expires, or the session if no further request is sent; null for never."
    )
    csrf_token: str | None = Field(
        description="With a session: send it as the header `X-CSRF-Token` with every request that changes something."
    )
