"""Clients: their identity, between which capacity is shared, and whether they are still connected."""

from __future__ import annotations

from starlette.types import Receive, Scope

from service.access.principal import Principal
from service.host_names import client_of_address

PRINCIPAL = "plumbline.principal"
"""Key of the principal in the ASGI scope of a request."""
UNKNOWN = "unknown"


def client_of(scope: Scope) -> str:
    """Return the identity of the client that sent a request or opened a stream.

    It is the API key or the account. Without one it is the address of the peer, or the address that a proxy on this
    host reports in `X-Forwarded-For`.
    """
    principal: Principal | None = scope.get(PRINCIPAL)
    if principal is not None and principal.kind in {"key", "account"}:
        return f"{principal.kind} {principal.id}"
    client = scope.get("client")
    return client_of_address(client[0]) if client else UNKNOWN


def client_of_peer(peer: tuple[str, int] | None) -> str:
    """Return the identity of the client at the other end of a connection; None for a Unix socket."""
    return client_of_address(peer[0]) if peer else UNKNOWN


async def wait_for_disconnect(receive: Receive) -> None:
    """Return when the client has closed its connection. Use it after the body was received."""
    while (await receive())["type"] != "http.disconnect":
        pass
