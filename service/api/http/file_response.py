"""Responses that contain a stored file."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from service.api.http.clients import wait_for_disconnect
from service.api.http.head import is_head
from service.store.artefacts.stored_file import StoredFile


class FileResponse(Response):
    """A stored file, sent piece by piece as fast as the client reads.

    Args:
        file: The file. For a HEAD request, its content need not be read.
        read: Returns the piece of the file at an offset in bytes.
        headers: Headers of the response.
        media_type: Media type of the file.
    """

    def __init__(
        self,
        file: StoredFile,
        read: Callable[[StoredFile, int], Awaitable[bytes]],
        headers: Mapping[str, str],
        media_type: str,
    ) -> None:
        super().__init__(file.start, 200, {**headers, "Content-Length": str(file.size)}, media_type)
        self._file = file
        self._read = read

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        if self._file.size > len(self._file.start) and not is_head(scope):
            await self._send_pieces(receive, send)
        else:
            await send({"type": "http.response.body", "body": self._file.start})

    async def _send_pieces(self, receive: Receive, send: Send) -> None:
        disconnected = asyncio.ensure_future(wait_for_disconnect(receive))
        try:
            piece, sent = self._file.start, len(self._file.start)
            while sent < self._file.size:
                await send({"type": "http.response.body", "body": piece, "more_body": True})
                if disconnected.done():
                    return
                piece = await self._read(self._file, sent)
                sent += len(piece)
            await send({"type": "http.response.body", "body": piece, "more_body": False})
        finally:
            disconnected.cancel()
