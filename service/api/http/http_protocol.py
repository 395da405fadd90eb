"""HTTP protocol of the server: uvicorn's, with limits and timeouts, and with problems for malformed requests."""

from __future__ import annotations

import asyncio
import http
import json
import math
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.api.http.clients import client_of_peer
from service.api.http.connections import (
    IDLE,
    RECEIVING,
    STALLED,
    WRITE_BUFFER_BYTES,
    Connections,
    Replaceable,
    has_unread_data,
)
from service.api.http.errors import HeadersTooLarge, MalformedRequest, RequestTimeout
from service.api.http.problems import DISCARDING, MEDIA_TYPE, problem_body
from service.api.http.security_headers import SECURITY_HEADERS
from service.api.http.stream_protocol import StreamProtocol
from service.errors import PlumblineError, TooManyConnections
from service.store.ids import new_id

MAX_HEAD_BYTES = 64 * 2**10
MAX_PIPELINED = 64
"""Most requests of a connection that wait for the response to the one before them."""
_DRAIN_IDLE_S = 0.5
_STALLED_S = 2.0


def problem_response(error: PlumblineError) -> bytes:
    """Return a complete response, which ends the connection, for a failure that occurs before there is a request."""
    request_id = str(new_id())
    body = json.dumps(problem_body(error, request_id)).encode()
    lines = [
        f"HTTP/1.1 {error.status} {http.HTTPStatus(error.status).phrase}",
        f"content-type: {MEDIA_TYPE}",
        f"content-length: {len(body)}",
        f"x-request-id: {request_id}",
        "connection: close",
        *(f"{name.lower()}: {value}" for name, value in SECURITY_HEADERS.items()),
    ]
    if error.retry_after_s is not None:
        lines.append(f"retry-after: {math.ceil(error.retry_after_s)}")
    return "\r\n".join([*lines, "", ""]).encode() + body


class HttpProtocol(HttpToolsProtocol):
    """HTTP/1.1 with a limited number of connections, limited headers, and timeouts for everything a client does.

    Args:
        connections: All connections of the server.
        options: Arguments of uvicorn.

    Attributes:
        on_open: Called before the connection counts as one of HTTP, after a TLS handshake.
    """

    def __init__(self, *, connections: Connections, **options: Any) -> None:
        super().__init__(**options)
        self.idle_since: float | None = None
        self.write_deadline: float | None = None
        self.on_open: Callable[[], None] | None = None
        self._connections = connections
        self._head_since: float | None = None
        self._head_bytes = 0  # of the chunks in which the head did not end
        self._parsed_bytes = 0
        self._error: PlumblineError | None = None
        self._is_ended = False  # nothing more is read from the client

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start to serve a connection, or refuse it."""
        if self.on_open is not None:
            self.on_open()
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=WRITE_BUFFER_BYTES)
        self.idle_since = self.loop.time()
        if not self._connections.add(self, client_of_peer(self.client)):
            self._end(TooManyConnections(self._connections.limits.connections))

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop counting the connection."""
        self._connections.discard(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse what the client sent."""
        if self._is_ended:
            return
        super().data_received(data)
        if self._head_since is not None and not self._is_ended:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self._fail(HeadersTooLarge(MAX_HEAD_BYTES))

    def handle_websocket_upgrade(self) -> None:
        """Continue the connection as a stream, unless a request before is in progress.

        The response to it would be written between the messages of the stream, without waiting for the client to read.
        """
        if self._is_busy:
            self._fail(MalformedRequest("a WebSocket handshake must wait for the response to the request before it"))
            return
        super().handle_websocket_upgrade()
        stream = self.transport.get_protocol()
        assert isinstance(stream, StreamProtocol)
        self._connections.hand_over(self, stream)

    def on_message_begin(self) -> None:
        """Start the time and the size of a request's headers."""
        super().on_message_begin()
        self._head_since = self.loop.time()
        self._head_bytes = self._parsed_bytes = 0

    def on_url(self, url: bytes) -> None:
        """Extend the URL."""
        self._add_to_head(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Add a header."""
        self._add_to_head(len(name) + len(value) + 4)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Start the request."""
        self._head_since = self.idle_since = None
        if len(self.pipeline) >= MAX_PIPELINED:
            # Raised before the request begins, so that those before it get responses. The parser makes an error of it.
            raise MalformedRequest(f"more than {MAX_PIPELINED} requests before it wait for their responses")
        super().on_headers_complete()
        if self._connections.is_draining:
            self.drain()

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        super().on_response_complete()
        self._unset_keepalive_if_required()  # `check` closes idle connections
        if self.cycle.response_complete:  # no pipelined request follows
            self.idle_since = self.loop.time()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - replaced by a problem
        """Refuse a request that cannot be parsed."""
        self._fail(self._error or MalformedRequest())

    def pause_writing(self) -> None:
        """Start the time that the client has to read."""
        self.write_deadline = self.loop.time() + self._connections.limits.write_s
        super().pause_writing()

    def resume_writing(self) -> None:
        """Stop the time that the client has to read."""
        self.write_deadline = None
        super().resume_writing()

    def shutdown(self) -> None:
        """Close the connection after the response when the server stops, or soon if it has no request."""
        self.drain()
        if self.idle_since is not None:
            # Clients may be about to send a request. It gets a response if it arrives before `check` closes.
            self.idle_since = self.loop.time()

    @property
    def _is_busy(self) -> bool:
        """Whether a response is not complete."""
        cycle: object = self.cycle  # None before the first request, although uvicorn declares otherwise
        return cycle is not None and not self.cycle.response_complete

    @property
    def _is_discarding(self) -> bool:
        """Whether the response was sent, and the rest of the body is discarded: see `EarlyResponse`."""
        return self._is_busy and DISCARDING in self.cycle.scope

    def replaceable(self, now: float) -> Replaceable | None:
        """Return how well the connection can be closed for a new one."""
        if self._is_ended or self.transport.is_closing():
            return None
        if self.idle_since is not None:
            return Replaceable(IDLE, self.idle_since)
        if self.write_deadline is not None:
            stalled_since = self.write_deadline - self._connections.limits.write_s
            return Replaceable(STALLED, stalled_since) if now - stalled_since > _STALLED_S else None
        if self._is_discarding:
            return Replaceable(IDLE, now)
        if self._is_busy and self.cycle.more_body and not self.cycle.response_started:
            return Replaceable(RECEIVING, now)
        return None

    def replace(self) -> None:
        """Close the connection for a new one."""
        if self.idle_since is None and self.write_deadline is None and not self._is_discarding:
            self._end(TooManyConnections(self._connections.limits.connections))
        else:
            self.transport.abort()

    def drain(self) -> None:
        """Close the connection after the responses in progress."""
        if self._is_busy:
            self.cycle.keep_alive = False

    def check(self, now: float) -> None:
        """Close the connection if the client sends nothing, or its headers too slowly."""
        limits = self._connections.limits
        if self.idle_since is None or self.transport.is_closing():
            return
        if self._head_since is not None:
            if now >= max(self._head_since, self.idle_since) + limits.header_s:
                self._connections.count_close("headers")
                self._end(RequestTimeout(limits.header_s, "PLUMBLINE_HEADER_TIMEOUT_S", "head of the request"))
        elif now >= self.idle_since + (_DRAIN_IDLE_S if self._connections.is_draining else limits.idle_s):
            self._connections.count_close("idle")
            self._close_if_quiet()

    def _close_if_quiet(self) -> None:
        # A request that has arrived already would end without a response.
        if not self.transport.is_closing() and not has_unread_data(self.transport):
            self.transport.close()

    def _add_to_head(self, size: int) -> None:
        self._parsed_bytes += size
        if self._parsed_bytes > MAX_HEAD_BYTES:
            self._error = HeadersTooLarge(MAX_HEAD_BYTES)
            raise self._error  # the parser turns it into an error of its own

    def _fail(self, error: PlumblineError) -> None:
        """Refuse what the client sent last; a response in progress is completed."""
        self._connections.count_close("malformed")
        if self._is_busy:
            if not self.cycle.more_body:
                # The request before is complete and gets its response.
                self.cycle.keep_alive = False
                self._is_ended = True
                return
            if self.cycle.response_started:
                self._is_ended = True
                self.transport.close()
                return
        self._end(error)

    def _end(self, error: PlumblineError) -> None:
        """Refuse with a problem and close the connection."""
        self._is_ended = True
        self.idle_since = None
        if self._is_busy:
            # The request in progress ends as if the client had closed the connection.
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self._connections.metrics.http.problems.labels(error.slug).inc()
        self.transport.write(problem_response(error))
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._connections.linger(self)
