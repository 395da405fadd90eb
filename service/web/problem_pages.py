"""Failures as pages: a person who opens a page in a browser sees HTML, and is asked to log in where that helps."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.access.errors import InsufficientScope
from service.access.principal import ANONYMOUS
from service.api.http.access import IDENTITY, find_sender, principal_of
from service.api.http.clients import PRINCIPAL
from service.api.http.errors import ForeignOrigin, HostNotAllowed, RouteNotFound
from service.languages import Texts
from service.web.page import Pages
from service.web.problem_texts import slug_of, translate
from service.web.translated_problems import is_problem

LOGIN = "/login"
# The pages of these failures tell nothing about the person: a page of another host may read them.
_FOREIGN = frozenset({HostNotAllowed.slug, ForeignOrigin.slug})
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
            if message["type"] == "http.response.start" and is_problem(message):
                start = message
                return
            if start is None:
                await send(message)
                return
            body.extend(message.get("body", b""))
            if not message.get("more_body", False):
                response = await self._response(scope, start, bytes(body))
                await response(scope, receive, send)

        await self._app(scope, receive, send_page)

    async def _response(self, scope: Scope, start: Message, body: bytes) -> Response:
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
        if slug_of(problem) not in _FOREIGN:
            await find_sender(request)
        scope.setdefault(PRINCIPAL, ANONYMOUS)
        scope.setdefault(IDENTITY, None)
        template = "problem_part.html" if is_part else "problem.html"
        title, detail = _in_words(problem, request, self._pages.texts(request))
        response = self._pages.page(request, template, status=status, problem=problem, title=title, detail=detail)
        retry_after = Headers(raw=start["headers"]).get("retry-after")
        if retry_after is not None:
            response.headers["Retry-After"] = retry_after
        return response


def _in_words(problem: dict[str, Any], request: Request, texts: Texts) -> tuple[str, str]:
    """Return title and detail of a problem for a person."""
    slug = slug_of(problem)
    if slug == InsufficientScope.slug:
        return texts.text(_("This page is not for your account")), texts.text(
            _("%(name)s may not open it. An administrator can create an account with another role."),
            name=principal_of(request).name,
        )
    if slug == RouteNotFound.slug:
        return texts.text(_("There is no such page")), texts.text(
            _("The service has no page at %(path)s."), path=request.url.path
        )
    found = translate(problem, texts)
    return found["title"], found["detail"]


def _(message: str) -> str:
    """Mark a message for the catalogue."""
    return message


def _is_for_person(scope: Scope) -> bool:
    headers = Headers(scope=scope)
    if scope["method"] not in {"GET", "HEAD"} or scope["path"].startswith(_PROGRAMS):
        return False
    return "text/html" in headers.get("accept", "") or "hx-request" in headers


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
