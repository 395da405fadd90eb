"""Failures as RFC 9457 problems: `application/problem+json`, for every failure there is."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import compile_path
from starlette.types import Receive, Scope, Send

from service.api.http.errors import InternalError, MethodNotAllowed, RouteNotFound
from service.errors import InvalidRequest, PlumblineError
from service.schemas.problem import TYPE_PREFIX

log = structlog.get_logger(__name__)

MEDIA_TYPE = "application/problem+json"
REQUEST_ID = "plumbline.request_id"
PROBLEM = "plumbline.problem"
_LINGER_S = 2.0


def problem_body(error: PlumblineError, request_id: str) -> dict[str, Any]:
    """A failure as a problem object; `Problem` describes it."""
    return {
        "type": TYPE_PREFIX + error.slug,
        "title": error.title,
        "status": error.status,
        "detail": error.detail,
        "instance": f"urn:plumbline:request:{request_id}",
        **error.extensions,
    }


def known_error(error: Exception) -> PlumblineError:
    """What is told about a failure: itself, where somebody foresaw it; else the log has the story."""
    if isinstance(error, PlumblineError):
        return error
    log.error("unforeseen failure", exc_info=error)
    return InternalError()


class EarlyResponse(Response):
    """An answer that may come before the request's body was read to its end.

    Args:
        content: The answer.
        status_code: Its status.
        headers: Its headers.
        media_type: Its type.
        close: The body was not read to its end, so the connection cannot be used again.
    """

    def __init__(
        self,
        content: bytes,
        status_code: int = 200,
        headers: Mapping[str, str] | None = None,
        media_type: str | None = None,
        *,
        close: bool,
    ) -> None:
        self.close = close
        closing = {"Connection": "close"} if close else {}
        super().__init__(content, status_code, {**(headers or {}), **closing}, media_type)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not self.close:
            await super().__call__(scope, receive, send)
            return
        # Closing at once, with the client's data still coming in, would reset the connection, and the client
        # would see the reset instead of this answer. So: answer, look away for a moment, then close.
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": True})
        if b"100-continue" not in dict(scope["headers"]).get(b"expect", b"").lower():
            await _discard_body(receive)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


class ProblemResponse(EarlyResponse):
    """Answers a failure.

    Args:
        error: What went wrong.
        request_id: Id of the request.
        close: The request's body was not read to its end, so the connection cannot be used again.
    """

    media_type = MEDIA_TYPE

    def __init__(self, error: PlumblineError, request_id: str, *, close: bool = False) -> None:
        body = problem_body(error, request_id)
        headers = {}
        if error.retry_after_s is not None:
            # The header knows whole seconds only; the body has the exact figure.
            headers["Retry-After"] = str(math.ceil(error.retry_after_s))
        if error.status == 405:
            headers["Allow"] = str(error.extensions.get("allowed", ""))
        self.slug = error.slug
        super().__init__(json.dumps(body).encode(), error.status, headers, close=close)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope[PROBLEM] = self.slug
        await super().__call__(scope, receive, send)


async def _discard_body(receive: Receive) -> None:
    try:
        async with asyncio.timeout(_LINGER_S):
            while (await receive()).get("more_body", False):
                pass
    except TimeoutError:
        pass


class BodyLimitExceeded(HTTPException):
    """Raised while a body is read. An HTTPException, because those pass FastAPI's own body parsing
    unchanged.
    """

    def __init__(self, problem: PlumblineError) -> None:
        super().__init__(problem.status)
        self.problem = problem


def request_id(scope: Scope) -> str:
    return str(scope.get(REQUEST_ID, "unknown"))


def install_problem_handlers(app: FastAPI) -> None:
    """Make every failure of the application answer as a problem. `RequestContext` does the same for bugs."""

    @app.exception_handler(PlumblineError)
    async def _plumbline(request: Request, error: PlumblineError) -> Response:
        # A refusal before the end of the body leaves the rest of it in the connection.
        return ProblemResponse(error, request_id(request.scope), close=not body_was_read(request.scope))

    @app.exception_handler(RequestValidationError)
    async def _invalid(request: Request, error: RequestValidationError) -> Response:
        # `input` is left out: it would send back what the client sent, however large.
        errors = [
            {"loc": item["loc"], "msg": item["msg"].removeprefix("Value error, "), "type": item["type"]}
            for item in error.errors()
        ]
        what = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in errors)
        problem = InvalidRequest(f"The request does not have the form that is documented: {what}.", errors)
        return ProblemResponse(problem, request_id(request.scope), close=not body_was_read(request.scope))

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: HTTPException) -> Response:
        return ProblemResponse(
            _from_http(request, error), request_id(request.scope), close=not body_was_read(request.scope)
        )


def _from_http(request: Request, error: HTTPException) -> PlumblineError:
    if isinstance(error, BodyLimitExceeded):
        return error.problem
    if error.status_code == 404:
        return RouteNotFound(request.url.path)
    if error.status_code == 405:
        return MethodNotAllowed(request.method, _allowed_methods(request))
    if error.status_code < 500:
        return InvalidRequest(f"{error.detail}.")
    return InternalError()


def _allowed_methods(request: Request) -> str:
    """All methods of an address; the router itself names those of the first route alone."""
    paths = request.app.openapi()["paths"]
    fitting = [item for path, item in paths.items() if compile_path(path)[0].match(request.url.path)]
    return ", ".join(sorted({method.upper() for item in fitting for method in item} & HTTP_METHODS))


HTTP_METHODS = {"DELETE", "GET", "HEAD", "PATCH", "POST", "PUT"}
BODY_READ = "plumbline.body_read"


def body_was_read(scope: Scope) -> bool:
    """Whether the request's body was received to its end, which `BodyLimit` keeps track of."""
    return bool(scope.get(BODY_READ, True))


def catalogue() -> dict[str, type[PlumblineError]]:
    """Every kind of failure that the service can answer, by its slug."""
    kinds: dict[str, type[PlumblineError]] = {PlumblineError.slug: InternalError}
    return kinds | {kind.slug: kind for kind in _subclasses(PlumblineError) if kind.__module__.startswith("service.")}


def _subclasses(kind: type[PlumblineError]) -> Iterator[type[PlumblineError]]:
    for subclass in kind.__subclasses__():
        yield subclass
        yield from _subclasses(subclass)


def problem_responses(*kinds: type[PlumblineError]) -> dict[int | str, dict[str, Any]]:
    """The OpenAPI description of the failures a route can answer; 500 goes without saying and is added."""
    by_status: dict[int | str, list[str]] = {}
    every: tuple[type[PlumblineError], ...] = (*kinds, InternalError)
    for kind in dict.fromkeys(every):
        by_status.setdefault(kind.status, []).append(f"`{kind.slug}`: {kind.title}.")
    return {
        status: {
            "description": " ".join(lines),
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
            **({"headers": RETRY_HEADERS} if status == 503 else {}),
        }
        for status, lines in sorted(by_status.items(), key=lambda item: int(item[0]))
    }


RETRY_HEADERS = {"Retry-After": {"description": "Seconds after which to try again.", "schema": {"type": "integer"}}}
