"""Principals: who sends a request, and what they may do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Scope = Literal["inspect", "review", "engineer", "admin"]
"""What a principal may do. `inspect`: send images and read results. `review`: label inspections. `engineer`: change
recipes and bundles. `admin`: manage keys, accounts and retention. Each scope is granted on its own.
"""
SCOPES: tuple[Scope, ...] = ("inspect", "review", "engineer", "admin")

Role = Literal["operator", "engineer", "admin"]
"""What a person does. A role stands for scopes."""
ROLE_SCOPES: Mapping[Role, frozenset[Scope]] = {
    "operator": frozenset({"inspect", "review"}),
    "engineer": frozenset({"inspect", "review", "engineer"}),
    "admin": frozenset(SCOPES),
}


@dataclass(frozen=True)
class Principal:
    """Who sends a request: an API key, an account with a session, or anyone on this host.

    Attributes:
        kind: How the principal was authenticated; `local` if the service has neither keys nor accounts, `anonymous`
            for a request without credentials to an endpoint that everyone may use.
        id: Id of the key or of the account; the kind without authentication.
        name: Name of the key or of the account, which is recorded as the author of changes.
        scopes: What the principal may do.
        products: The products that the principal may use; None for all.
        stations: The stations that the principal may use; None for all.
    """

    kind: Literal["key", "account", "local", "anonymous"]
    id: str
    name: str
    scopes: frozenset[Scope]
    products: frozenset[str] | None = None
    stations: frozenset[str] | None = None

    @property
    def is_restricted(self) -> bool:
        """Whether the principal may use certain products or stations only."""
        return self.products is not None or self.stations is not None

    def may_use(self, product: str, station: str | None) -> bool:
        """Return whether the principal may use an inspection of this product and station."""
        return (self.products is None or product in self.products) and (
            self.stations is None or station in self.stations
        )


LOCAL = Principal("local", "local", "local", frozenset(SCOPES))
"""The principal of every request as long as the service has neither keys nor accounts."""
ANONYMOUS = Principal("anonymous", "anonymous", "anonymous", frozenset())
"""The principal of a request to an endpoint that everyone may use."""
