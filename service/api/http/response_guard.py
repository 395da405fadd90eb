"""Responses to clients that read slowly or not at all, and to requests that are cancelled at shutdown."""

from __future__ import annotations

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.http.clients import client_of
from service.api.http.problems import REQUEST_ID, ProblemResponse
from service.errors import MemoryBudgetExceeded, ShuttingDown
from service.serving.memory_budget import MemoryBudget, Reservation

PIECE_BYTES = 64 * 2**10


class ResponseGuard:
    """Sends large responses in pieces, each after the client has read the ones before, within a memory budget.

    The server would otherwise copy a whole response into the buffer of its connection.

    Args:
        app: The application.
        memory: Budget of large responses.
    """

    def __init__(self, app: ASGIApp, memory: MemoryBudget) -> None:
        self._app = app
        self._memory = memory

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        response = _Response(self._memory, scope, receive, send)
        try:
            await self._app(scope, receive, response.send)
        except asyncio.CancelledError:
            # The server cancels what is still in flight after the shutdown timeout.
            if not response.is_started:
                await ProblemResponse(ShuttingDown(), scope[REQUEST_ID], close=True)(scope, receive, send)
            raise
        finally:
            response.close()


class _Response:
    def __init__(self, memory: MemoryBudget, scope: Scope, receive: Receive, send: Send) -> None:
        self.is_started = False
        self._memory = memory
        self._scope = scope
        self._receive = receive
        self._send = send
        self._start: Message | None = None
        self._is_refused = False
        self._reservation: Reservation | None = None

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._start = message  # kept back until it is certain that the body can be sent
            return
        if self._is_refused:
            return
        body: bytes = message.get("body", b"")
        if len(body) > PIECE_BYTES and not self._has_memory(len(body)):
            self._is_refused = self.is_started = True
            error = MemoryBudgetExceeded(self._memory.limit_bytes)
            await ProblemResponse(error, self._scope[REQUEST_ID])(self._scope, self._receive, self._send)
            return
        if self._start is not None:
            start, self._start = self._start, None
            self.is_started = True
            await self._send(start)
        if len(body) <= PIECE_BYTES:
            await self._send(message)
            return
        more_body = message.get("more_body", False)
        for offset in range(0, len(body), PIECE_BYTES):
            piece = body[offset : offset + PIECE_BYTES]
            is_last = offset + PIECE_BYTES >= len(body)
            await self._send({"type": "http.response.body", "body": piece, "more_body": more_body or not is_last})

    def close(self) -> None:
        if self._reservation is not None:
            self._reservation.release()

    def _has_memory(self, size: int) -> bool:
        if self.is_started:
            return True
        try:
            self._reservation = self._memory.reserve(client_of(self._scope), size)
        except MemoryBudgetExceeded:
            return False
        return True
