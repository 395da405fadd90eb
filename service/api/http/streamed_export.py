"""Responses that are made while they are sent."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send


class ExportResponse(StreamingResponse):
    """A response whose pieces are made in a thread as fast as the client reads them.

    Args:
        pieces: Makes the body.
        close: Called when the response ends, also if the client disconnects.
        headers: Headers of the response.
        media_type: Media type of the body.
    """

    def __init__(
        self, pieces: Iterator[bytes], close: Callable[[], None], headers: Mapping[str, str], media_type: str
    ) -> None:
        super().__init__(pieces, headers=headers, media_type=media_type)
        self._close = close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._close()
