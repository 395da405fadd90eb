"""Principals: who sends a request, and what they may do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Scope = Literal["inspect", "review", "engineer", "admin"]
"""What a principal may do. `inspect`: send images and read results. `review`: label inspections. `engineer`: change
recipes and bundles. `admin`: manage keys, accounts and retention. Each scope is granted on its own.
"""
SCOPES: tuple[Scope, ...] = ("inspect", "review", "engineer", "admin")


@dataclass(frozen=True)
class Principal:
    """Who sends a request: an API key, an account with a session, or anyone on this host.

    Attributes:
        kind: How the principal was authenticated; `local` if the service has neither keys nor accounts.
        id: Id of the key or of the account; `local` without authentication.
        name: Name of the key or of the account, which is recorded as the author of changes.
        scopes: What the principal may do.
        products: The products that the principal may use; None for all.
        stations: The stations that the principal may use; None for all.
    """

    kind: Literal["key", "account", "local"]
    id: str
    name: str
    scopes: frozenset[Scope]
    products: frozenset[str] | None = None
    stations: frozenset[str] | None = None


LOCAL = Principal("local", "local", "local", frozenset(SCOPES))
"""The principal of every request as long as the service has neither keys nor accounts."""
