"""TLS handshakes of the server, with a limited number of connections and a time limit.

The server of asyncio creates the HTTP protocol after the handshake, so connections that never complete one would not be
counted. Therefore connections are accepted without TLS and changed to TLS here.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import Any

from uvicorn.protocols.utils import get_remote_addr

from service.api.http.clients import client_of_peer
from service.api.http.connections import IDLE, Connections, Replaceable
from service.api.http.http_protocol import HttpProtocol


class TlsProtocol(asyncio.Protocol):
    """A connection until the end of its TLS handshake. `HttpProtocol` serves it afterwards.

    Args:
        connections: All connections of the server.
        context: The TLS context.
        handshakes: The handshakes in progress, of all connections.
        options: Arguments of uvicorn.
    """

    def __init__(
        self,
        *,
        connections: Connections,
        context: ssl.SSLContext,
        handshakes: set[asyncio.Task[None]],
        **options: Any,
    ) -> None:
        self.transport: asyncio.Transport = None  # type: ignore[assignment]
        self.write_deadline: float | None = None
        self._connections = connections
        self._context = context
        self._handshakes = handshakes
        self._options = options
        self._loop = asyncio.get_running_loop()
        self._since = self._loop.time()
        self._received: list[bytes] = []
        self._is_lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start the handshake, or close the connection if there are too many."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.pause_reading()  # what the client sends is for the TLS layer
        if not self._connections.add(self, client_of_peer(get_remote_addr(transport))):
            transport.abort()  # a problem cannot be sent without TLS
            return
        task = self._loop.create_task(self._shake_hands())
        self._handshakes.add(task)
        task.add_done_callback(self._handshakes.discard)

    def data_received(self, data: bytes) -> None:
        """Keep what the client sent together with the end of the handshake."""
        self._received.append(data)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the interface of asyncio
        """Stop counting the connection."""
        self._is_lost = True
        self._connections.discard(self)

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

    async def _shake_hands(self) -> None:
        try:
            secured = await self._loop.start_tls(
                self.transport,
                self,
                self._context,
                server_side=True,
                ssl_handshake_timeout=self._connections.limits.header_s,
            )
        except OSError as error:  # ssl.SSLError is one, too
            if isinstance(error, ConnectionAbortedError):
                self._connections.count_close("handshake")
            return
        finally:
            self._connections.discard(self)
        # None if the connection was closed meanwhile, although the interface declares otherwise.
        if secured is None or self._is_lost or self.transport.is_closing():
            return
        protocol = HttpProtocol(connections=self._connections, **self._options)
        secured.set_protocol(protocol)
        protocol.connection_made(secured)
        for data in self._received:
            protocol.data_received(data)
