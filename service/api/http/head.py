"""HEAD for every GET route (RFC 9110, section 9.3.2)."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_IS_HEAD = "plumbline.is_head"


def is_head(scope: Scope) -> bool:
    """Return whether a request that is handled as GET is a HEAD request, so that no body is needed."""
    return bool(scope.get(_IS_HEAD, False))


def headers_only(headers: Mapping[str, str], media_type: str) -> Response:
    """Return the response to a HEAD request whose body was not made. It has no `Content-Length` (RFC 9110, 9.3.2).

    Args:
        headers: The headers of the response to GET.
        media_type: Media type of the response to GET.
    """
    response = Response(headers=headers, media_type=media_type)
    del response.headers["content-length"]
    return response


class HeadMiddleware:
    """Handles HEAD as GET and omits the body of the response. Load balancers probe with HEAD.

    Routes whose body takes work to make do without it: see `is_head`.

    Args:
        app: The application.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return

        async def send_without_body(message: Message) -> None:
            await send({**message, "body": b""} if message["type"] == "http.response.body" else message)

        # The server expects a body unless its scope says HEAD, so the application gets a copy. What the application
        # adds to it, such as the route, is read by the outer middleware.
        as_get = {**scope, "method": "GET", _IS_HEAD: True}
        try:
            await self._app(as_get, receive, send_without_body)
        finally:
            scope.update({**as_get, "method": "HEAD"})
