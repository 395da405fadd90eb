"""Keys, accounts and sessions in tests."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import httpx
from sqlalchemy import Engine

from service.access.accounts import create_account
from service.access.keys import Grant, NewKey, create_key
from service.access.principal import Role, Scope
from service.store.audit import Actor
from tests.running_service import RunningService

PASSWORD = "correct horse battery"
OPERATOR = Actor("command-line", "tester@host", "tester (command line)", address="host")


def make_key(
    engine: Engine,
    *scopes: Scope,
    products: Sequence[str] | None = None,
    stations: Sequence[str] | None = None,
    expires_at: datetime | None = None,
) -> NewKey:
    """Create a key in the database, as the command line does."""
    name = "-".join(scopes)
    return create_key(engine, Grant(name, scopes, products, stations, expires_at), OPERATOR, may_share_name=True)


def make_account(engine: Engine, name: str, role: Role = "operator") -> None:
    """Create an account with the password `PASSWORD`."""
    create_account(engine, name, role, PASSWORD, OPERATOR)


def bearer(key: str | NewKey) -> dict[str, str]:
    """Return the header that sends a key."""
    return {"authorization": f"Bearer {key if isinstance(key, str) else key.key}"}


def log_in(service: RunningService, name: str, password: str = PASSWORD, **options: Any) -> dict[str, str]:
    """Log in and return the header with the CSRF token; the client keeps the cookie."""
    response = service.client.post("/v1/access/login", json={"name": name, "password": password}, **options)
    assert response.status_code == 200, response.text
    return {"x-csrf-token": response.json()["csrf_token"]}


def problem_of(response: httpx.Response) -> tuple[int, str]:
    """Return the status and the slug of a problem."""
    return response.status_code, response.json()["type"].partition("#")[2]
