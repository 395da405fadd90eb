"""Access to routes: each endpoint declares the scope that it needs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from starlette.requests import HTTPConnection

from service.access.principal import LOCAL, Principal, Scope

PRINCIPAL = "plumbline.principal"
"""Key of the principal in the ASGI scope of a request."""
_ATTRIBUTE = "__required_scope__"
EndpointT = TypeVar("EndpointT", bound=Callable[..., Any])


def requires(scope: Scope | None) -> Callable[[EndpointT], EndpointT]:
    """Declare the scope that an endpoint needs; None for an endpoint that everyone may use.

    Use it below the decorator of the route.
    """

    def declare(endpoint: EndpointT) -> EndpointT:
        setattr(endpoint, _ATTRIBUTE, scope)
        return endpoint

    return declare


def principal_of(connection: HTTPConnection) -> Principal:
    """Return the principal that sent a request or opened a stream."""
    principal: Principal = connection.scope.get(PRINCIPAL, LOCAL)
    return principal
