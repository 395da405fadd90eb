"""WebSocket protocol of the server: uvicorn's, with limits and timeouts, and with problems for refused handshakes."""

from __future__ import annotations

import asyncio
import http
import json
import time
from typing import Any

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.datastructures import Headers
from websockets.exceptions import SecurityError
from websockets.frames import Frame
from websockets.http11 import MAX_LINE_LENGTH, MAX_NUM_HEADERS, Request, Response

from service.api.http.clients import client_of_peer
from service.api.http.connections import Connections, Replaceable
from service.api.http.errors import MalformedRequest
from service.api.http.problems import MEDIA_TYPE, problem_body
from service.api.http.security_headers import SECURITY_HEADERS
from service.errors import MemoryBudgetExceeded
from service.serving.memory_budget import Reservation
from service.store.ids import new_id

_FRAME_STEP_BYTES = 2**20
_FRAME_WAIT_S = 10.0
_SLICE_BYTES = 2**13
_TURN_S = 0.01
_POLICY_VIOLATION, _TRY_AGAIN_LATER = 1008, 1013
MAX_FRAGMENTS = 2**14
"""Most fragments of a message. Libraries send a message as one frame, or in pieces of some KiB."""


class StreamProtocol(WebSocketsSansIOProtocol):
    """WebSocket with a limited number of connections and a memory budget for frames that are being received.

    Args:
        connections: All connections of the server.
        options: Arguments of uvicorn.
    """

    def __init__(self, *, connections: Connections, **options: Any) -> None:
        super().__init__(**options)
        self.idle_since: float | None = None
        self.write_deadline: float | None = None
        self._connections = connections
        self._memory: Reservation | None = None
        self._queued_bytes = 0
        self._memory_paused_since: float | None = None
        self._unparsed = bytearray()
        self._is_parsing = False
        self._turn: asyncio.Handle | None = None  # continues to parse
        accept = self.conn.accept

        def accept_or_refuse(request: Request) -> Response:
            response = accept(request)
            return response if response.status_code == 101 else _refusal(response)

        self.conn.accept = accept_or_refuse  # type: ignore[method-assign]

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop counting the connection."""
        self._connections.discard(self)
        if self._turn is not None:
            self._turn.cancel()
        if self._memory is not None:
            self._memory.release()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse what the client sent."""
        if self.handshake_initiated:
            self._unparsed += data
            self._parse()
            return
        super().data_received(data)
        if not self.handshake_initiated:
            # `HttpProtocol` passes on the whole head at once. The library refuses longer headers than the HTTP server
            # does, but uvicorn does not send that response, and the connection would stay open without a time limit.
            self._refuse_handshake()

    def handle_cont(self, event: Frame) -> None:
        """Add a fragment to the message, or end the stream if there are too many.

        The memory budget does not count empty fragments, of which a client could send any number.
        """
        super().handle_cont(event)
        if len(self.frames) > MAX_FRAGMENTS:
            self.frames = []
            self._fail(_POLICY_VIOLATION, f"a message has more than {MAX_FRAGMENTS} fragments")

    def send_receive_event_to_app(self) -> None:
        """Queue a complete message."""
        self._queued_bytes += sum(map(len, self.frames))
        super().send_receive_event_to_app()

    async def receive(self) -> Any:
        """Return the next message; the application reserves the memory for it from now on."""
        message = await super().receive()
        self._queued_bytes = 0 if self.queue.empty() else self._queued_bytes - _size(message)
        self._update_memory()
        self._update_reading()
        return message

    async def send(self, message: Any) -> None:
        """Send a message. Closing ends the pause for messages that wait."""
        await super().send(message)
        self._update_reading()

    def pause_writing(self) -> None:
        """Start the time that the client has to read. Nothing is read meanwhile: pings cause pongs."""
        self.write_deadline = self.loop.time() + self._connections.limits.write_s
        super().pause_writing()
        self._update_reading()

    def resume_writing(self) -> None:
        """Stop the time that the client has to read."""
        self.write_deadline = None
        super().resume_writing()
        self._update_reading()

    def replaceable(self, now: float) -> Replaceable | None:  # noqa: ARG002 - see `HttpProtocol`
        """Return None: streams have limits of their own."""
        return None

    def replace(self) -> None:
        """Close the connection for a new one."""
        self.transport.abort()

    def drain(self) -> None:
        """Do nothing: the application ends the stream."""

    def check(self, now: float) -> None:
        """Continue to read when there is memory again; give up if that takes too long."""
        paused_since = self._memory_paused_since
        if paused_since is None:
            return
        self._update_memory()
        if self._memory_paused_since == paused_since and now - paused_since > _FRAME_WAIT_S:
            self._memory_paused_since = None
            self._connections.count_close("frame_memory")
            self._fail(_TRY_AGAIN_LATER, "too many bytes in flight")

    def _refuse_handshake(self) -> None:
        self.handshake_initiated = self.handshake_complete = self.close_sent = True
        failure = self.conn.handshake_exc
        # Older versions of the library report the limit as the cause.
        if isinstance(failure, SecurityError) or isinstance(getattr(failure, "__cause__", None), SecurityError):
            status = http.HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
            reason = f"a header has more than {MAX_LINE_LENGTH} bytes, or there are more than {MAX_NUM_HEADERS} headers"
        else:
            status, reason = (
                http.HTTPStatus.BAD_REQUEST,
                "it is not a valid WebSocket handshake, such as one with a body",
            )
        self.transport.write(_refusal(Response(status, status.phrase, Headers()), reason).serialize())
        self.transport.close()

    def _fail(self, code: int, reason: str) -> None:
        self.conn.fail(code, reason)
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = True
        self.transport.close()

    @property
    def _is_paused(self) -> bool:
        """Whether a message waits, memory is missing, or the client does not read."""
        return self.read_paused or self._memory_paused_since is not None or self.write_deadline is not None

    def _update_reading(self) -> None:
        """Continue or stop to parse and to read what the client sends."""
        if self._is_parsing or self.transport.is_closing():
            return
        if self._is_paused or self._unparsed:
            self.transport.pause_reading()
        else:
            self.transport.resume_reading()
        if self._unparsed and not self._is_paused and self._turn is None:
            self._turn = self.loop.call_soon(self._continue)

    def _continue(self) -> None:
        self._turn = None
        self._parse()

    def _parse(self) -> None:
        """Parse what arrived, for a limited time.

        One piece from the network can have tens of thousands of frames, and the event loop would read one piece after
        the other. So it is parsed in slices, and after a turn the stream waits as long as the turn took.
        """
        if self._is_parsing or self._turn is not None:
            return
        self._is_parsing = True
        started, used_s = time.perf_counter(), 0.0
        while self._unparsed and not self._is_paused and not self.transport.is_closing() and used_s < _TURN_S:
            piece = bytes(self._unparsed[:_SLICE_BYTES])
            del self._unparsed[:_SLICE_BYTES]
            super().data_received(piece)
            self._update_memory()
            used_s = time.perf_counter() - started
        self._is_parsing = False
        if used_s >= _TURN_S and not self.transport.is_closing():
            self._turn = self.loop.call_later(used_s, self._continue)
        self._update_reading()

    def _update_memory(self) -> None:
        """Reserve memory for frames that are incomplete or wait for the application; stop reading if there is none."""
        held = self._queued_bytes + len(self.conn.reader.buffer) + sum(map(len, self.frames))
        if self._memory is None:
            if held < _FRAME_STEP_BYTES:
                return
            self._memory = self._connections.memory.reserve(client_of_peer(self.client), 0)
        try:
            # In steps, because a frame arrives in many small pieces.
            needed = -(-held // _FRAME_STEP_BYTES) * _FRAME_STEP_BYTES
            if needed > self._memory.size:
                self._memory.grow(needed - self._memory.size)
            else:
                self._memory.release(self._memory.size - needed)
        except MemoryBudgetExceeded:
            if self._memory_paused_since is None:
                self._memory_paused_since = self.loop.time()
            self._update_reading()
            return
        if self._memory_paused_since is not None:
            self._memory_paused_since = None
            self._update_reading()


def _size(message: Any) -> int:
    return len(message.get("bytes") or message.get("text") or b"")


def _refusal(response: Response, reason: str = "it is not a valid WebSocket handshake") -> Response:
    """Return the refusal of a WebSocket handshake as a problem; status and other headers are kept.

    Args:
        response: The response of the library. Its own reason quotes headers of the client.
        reason: Why the handshake is refused.
    """
    request_id = str(new_id())
    body = json.dumps(problem_body(MalformedRequest(reason), request_id) | {"status": response.status_code}).encode()
    headers = Headers(response.headers)
    for name, value in {
        "Content-Type": MEDIA_TYPE,
        "Content-Length": str(len(body)),
        "X-Request-ID": request_id,
        "Connection": "close",
        **SECURITY_HEADERS,
    }.items():
        if name in headers:
            del headers[name]
        headers[name] = value
    return Response(response.status_code, response.reason_phrase, headers, body)
