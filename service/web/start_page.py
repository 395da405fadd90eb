"""The first page: browsers that open `/` receive the live page, and programs the index of the API."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

LIVE = "/live"


class StartPage:
    """Handles a request of a browser for `/` as one for the live page.

    Args:
        app: The application.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        if scope["type"] == "http" and scope["path"] == "/" and "text/html" in Headers(scope=scope).get("accept", ""):
            scope["path"], scope["raw_path"] = LIVE, LIVE.encode()
        await self._app(scope, receive, send)
