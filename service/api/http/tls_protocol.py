"""TLS handshakes of the server, with a limited number of connections and a time limit.

A server with a TLS context calls the HTTP protocol after the handshake, so connections that never complete one would
not be counted. Therefore the server accepts plain connections, and the TLS layer is a protocol of its own.
"""

from __future__ import annotations

import asyncio
import ssl
from asyncio.sslproto import SSLProtocol
from typing import Any, cast

from uvicorn.protocols.utils import get_remote_addr

from service.api.http.clients import client_of_peer
from service.api.http.connections import IDLE, Connections, Replaceable
from service.api.http.http_protocol import HttpProtocol


class TlsProtocol(SSLProtocol):
    """The TLS layer of a connection. Until the end of the handshake it counts as a connection without a request.

    Args:
        connections: All connections of the server.
        context: The TLS context.
        handshakes: The handshakes in progress, of all connections.
        options: Arguments of uvicorn.
    """

    def __init__(
        self, *, connections: Connections, context: ssl.SSLContext, handshakes: set[TlsProtocol], **options: Any
    ) -> None:
        loop = asyncio.get_running_loop()
        http = HttpProtocol(connections=connections, **options)
        http.on_open = self._end_handshake
        # typeshed declares neither that the waiter may be None, as the server of asyncio passes it, nor a float.
        limits: dict[str, Any] = {"waiter": None, "ssl_handshake_timeout": connections.limits.header_s}
        super().__init__(loop, http, context, server_side=True, **limits)
        self.transport: asyncio.Transport = None  # type: ignore[assignment]
        self.write_deadline: float | None = None
        self._connections = connections
        self._handshakes = handshakes
        self._since = loop.time()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start the handshake, or close the connection if there are too many."""
        self.transport = cast(asyncio.Transport, transport)  # transports of uvloop are no subclass
        self._handshakes.add(self)
        if not self._connections.add(self, client_of_peer(get_remote_addr(self.transport))):
            self.transport.abort()  # a problem cannot be sent before the handshake
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Stop counting the connection."""
        if self in self._handshakes and isinstance(exc, ConnectionAbortedError):
            self._connections.count_close("handshake")
        self._end_handshake()
        super().connection_lost(exc)

    def replaceable(self, now: float) -> Replaceable | None:  # noqa: ARG002 - see `HttpProtocol`
        """Return how well the connection can be closed for a new one: like one without a request."""
        return None if self.transport.is_closing() else Replaceable(IDLE, self._since)

    def replace(self) -> None:
        """Close the connection for a new one."""
        self.transport.abort()

    def drain(self) -> None:
        """Do nothing: a request that follows gets its response."""

    def check(self, now: float) -> None:
        """Do nothing: the TLS layer has a time limit."""

    def _end_handshake(self) -> None:
        self._handshakes.discard(self)
        self._connections.discard(self)
