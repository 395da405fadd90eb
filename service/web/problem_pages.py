"""Failures as pages: a person who opens a page in a browser sees HTML, and is asked to log in where that helps."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.access.principal import ANONYMOUS
from service.api.http.access import IDENTITY
from service.api.http.clients import PRINCIPAL
from service.api.http.problems import MEDIA_TYPE
from service.web.page import Pages

LOGIN = "/login"
_PROGRAMS = ("/v1/", "/v2/", "/health/", "/docs/assets/", "/web/assets/")


class ProblemPages:
    """Replaces problem documents by pages where a browser opens a page or htmx requests a part of one.

    Requests of programs keep the problem document.

    Args:
        app: The application.
        pages: Renders the pages.
    """

    def __init__(self, app: ASGIApp, pages: Pages) -> None:
        self._app = app
        self._pages = pages

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        if scope["type"] != "http" or not _is_for_person(scope):
            await self._app(scope, receive, send)
            return
        start: Message | None = None
        body = bytearray()

        async def send_page(message: Message) -> None:
            nonlocal start
            if message["type"] == "http.response.start" and _is_problem(message):
                start = message
                return
            if start is None:
                await send(message)
                return
            body.extend(message.get("body", b""))
            if not message.get("more_body", False):
                await self._response(scope, start, bytes(body))(scope, receive, send)

        await self._app(scope, receive, send_page)

    def _response(self, scope: Scope, start: Message, body: bytes) -> Response:
        problem: dict[str, Any] = json.loads(body)
        status: int = start["status"]
        request = Request(scope)
        is_part = "hx-request" in request.headers
        if status == 401 and scope["method"] in {"GET", "HEAD"}:
            where = request.headers.get("hx-current-url") if is_part else None
            target = f"{LOGIN}?next={quote(_path_of(where) if where else _target(scope), safe='')}"
            # htmx follows a redirect within the part; this header makes it open the page.
            return (
                Response(status_code=204, headers={"HX-Redirect": target}) if is_part else RedirectResponse(target, 303)
            )
        scope.setdefault(PRINCIPAL, ANONYMOUS)
        scope.setdefault(IDENTITY, None)
        template = "problem_part.html" if is_part else "problem.html"
        response = self._pages.page(request, template, status=status, problem=problem)
        retry_after = Headers(raw=start["headers"]).get("retry-after")
        if retry_after is not None:
            response.headers["Retry-After"] = retry_after
        return response


def _is_for_person(scope: Scope) -> bool:
    headers = Headers(scope=scope)
    if scope["method"] not in {"GET", "HEAD"} or scope["path"].startswith(_PROGRAMS):
        return False
    return "text/html" in headers.get("accept", "") or "hx-request" in headers


def _is_problem(start: Message) -> bool:
    return Headers(raw=start["headers"]).get("content-type", "").partition(";")[0] == MEDIA_TYPE


def _target(scope: Scope) -> str:
    query = scope.get("query_string", b"").decode("latin-1")
    path: str = scope["path"]
    return f"{path}?{query}" if query else path


def _path_of(url: str) -> str:
    """Return path and query of a URL that the browser reports."""
    _, _, rest = url.partition("://")
    _, slash, path = rest.partition("/")
    return slash + path if slash else "/"


def safe_target(target: str) -> str:
    """Return where to go after the log-in: a path of this service, `/` for anything else.

    Browsers read two slashes at the beginning, also if one is a backslash, as the URL of another host.
    """
    is_path = target.startswith("/") and not target.startswith(("//", "/\\"))
    return target if is_path and target.isprintable() and "\\" not in target else "/"
