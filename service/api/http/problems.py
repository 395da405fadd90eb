"""Responses for failures: every failure is reported as `application/problem+json` (RFC 9457)."""

from __future__ import annotations

import asyncio
import importlib
import inspect
import json
import math
import pkgutil
import re
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import compile_path
from starlette.types import Receive, Scope, Send

import service
from service.access.principal import Principal
from service.api.http.aws_errors import AWS_PREFIX, aws_error
from service.api.http.clients import PRINCIPAL
from service.api.http.errors import (
    BodyTooSlow,
    ForeignOrigin,
    HeadersTooLarge,
    HostNotAllowed,
    InternalError,
    MalformedRequest,
    MethodNotAllowed,
    RequestTimeout,
    RouteNotFound,
)
from service.api.http.server_paths import hide_paths, hide_paths_in
from service.api.http.unknown_names import describe_violation, require_document
from service.errors import (
    InvalidRequest,
    MemoryBudgetExceeded,
    PlumblineError,
    QueueFull,
    ShuttingDown,
    TooManyConnections,
)
from service.schemas.problem import TYPE_PREFIX
from service.schemas.violations import describe_items, describe_violations
from service.serving.admission import Admission

log = structlog.get_logger(__name__)

MEDIA_TYPE = "application/problem+json"
REQUEST_ID = "plumbline.request_id"
PROBLEM = "plumbline.problem"
_OPEN_INFERENCE_PREFIX = "/v2/"
PROBLEM_DETAIL = "plumbline.problem_detail"
# A detail may quote what the client sent; the log keeps its beginning.
_LOGGED_DETAIL = 300
DISCARDING = "plumbline.discarding"
_LINGER_S = 2.0  # without further data
_MAX_LINGER_S = 20.0
_SECTION = re.compile(r"^(?:Args|Attributes|Raises|Example|Examples|Note):$", re.MULTILINE)


def is_open_inference(path: str) -> bool:
    """Return whether the path belongs to the Open Inference Protocol, which has a form of failures of its own."""
    return f"{path}/".startswith(_OPEN_INFERENCE_PREFIX)


def problem_body(error: PlumblineError, request_id: str) -> dict[str, Any]:
    """Return the problem document of a failure; `service.schemas.problem.Problem` declares its fields."""
    return {
        "type": TYPE_PREFIX + error.slug,
        "title": error.title,
        "status": error.status,
        "detail": hide_paths(error.detail),
        "instance": f"urn:plumbline:request:{request_id}",
        **hide_paths_in(error.extensions),
    }


def known_error(error: Exception) -> PlumblineError:
    """Return the error to report for an exception: itself, or `InternalError` if it is not a `PlumblineError`.

    The exception behind an `InternalError` is logged with its stack trace, which the client must not see.
    """
    if isinstance(error, PlumblineError):
        return error
    log.error("unexpected exception", exc_info=error)
    return InternalError()


class EarlyResponse(Response):
    """A response that may be sent before the request body was read completely.

    Args:
        content: Body of the response.
        status_code: HTTP status code.
        headers: Headers of the response.
        media_type: Media type of the body.
        close: Close the connection after the response, because the request body was not read completely and the
            connection cannot be reused.
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
        """Send the response and, before closing, discard the rest of the request body for a limited time."""
        if not self.close:
            await super().__call__(scope, receive, send)
            return
        # Closing while the client still sends would reset the connection, and the client would see the reset
        # instead of this response. So the rest of the body is read and discarded for a limited time before closing.
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": True})
        if b"100-continue" not in dict(scope["headers"]).get(b"expect", b"").lower():
            scope[DISCARDING] = True
            await _discard_body(receive)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


class ProblemResponse(EarlyResponse):
    """The response for a failure.

    Args:
        error: The failure.
        request_id: Id of the request.
        close: Close the connection after the response, because the request body was not read completely and the
            connection cannot be reused.
    """

    media_type = MEDIA_TYPE

    def __init__(self, error: PlumblineError, request_id: str, *, close: bool = False) -> None:
        body = problem_body(error, request_id)
        headers = {}
        if error.retry_after_s is not None:
            # The header allows whole seconds only; the body has the exact value.
            headers["Retry-After"] = str(math.ceil(error.retry_after_s))
        if error.status == 401:
            headers["WWW-Authenticate"] = 'Bearer realm="plumbline"'
        if error.status == 405:
            headers["Allow"] = str(error.extensions.get("allowed", ""))
        self.error = error
        super().__init__(json.dumps(body).encode(), error.status, headers, close=close)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response and record its type and detail in the scope, for the metrics and the log."""
        principal: Principal | None = scope.get(PRINCIPAL)
        visible = self.error.visible_to(None if principal is None else principal.products)
        if visible is not self.error:
            self.error, self.body = visible, json.dumps(problem_body(visible, request_id(scope))).encode()
            self.headers["Content-Length"] = str(len(self.body))
        scope[PROBLEM], scope[PROBLEM_DETAIL] = self.error.slug, self.error.detail[:_LOGGED_DETAIL]
        if is_open_inference(scope["path"]):
            self._use_open_inference_form()
        elif scope["path"].startswith(AWS_PREFIX):
            self._use_aws_form()
        await super().__call__(scope, receive, send)

    def _use_open_inference_form(self) -> None:
        """Report the failure as the Open Inference Protocol demands; the type is in a header."""
        self.body = json.dumps({"error": hide_paths(self.error.detail)}).encode()
        self.headers["Content-Type"] = "application/json"
        self.headers["Content-Length"] = str(len(self.body))
        self.headers["X-Problem-Type"] = TYPE_PREFIX + self.error.slug

    def _use_aws_form(self) -> None:
        """Report the failure as clients of AWS expect it; the type is in a header."""
        self.status_code, headers, self.body = aws_error(self.error)
        self.headers.update(headers | {"Content-Length": str(len(self.body))})


async def _discard_body(receive: Receive) -> None:
    try:
        loop = asyncio.get_running_loop()
        give_up = loop.time() + _MAX_LINGER_S
        async with asyncio.timeout(_LINGER_S) as timeout:
            while (await receive()).get("more_body", False):
                timeout.reschedule(min(give_up, loop.time() + _LINGER_S))
    except TimeoutError:
        pass


class BodyLimitExceeded(HTTPException):
    """Raised while a request body is read, when the body exceeds its limit.

    It is an HTTPException because FastAPI's body parsing passes only those on unchanged.
    """

    def __init__(self, problem: PlumblineError) -> None:
        super().__init__(problem.status)
        self.problem = problem


def request_id(scope: Scope) -> str:
    """Return the id that `RequestContext` gave the request."""
    return str(scope.get(REQUEST_ID, "unknown"))


def install_problem_handlers(app: FastAPI) -> None:
    """Report every failure of the application as a problem; `RequestContext` does so for unexpected exceptions."""

    @app.exception_handler(PlumblineError)
    async def _plumbline(request: Request, error: PlumblineError) -> Response:
        if isinstance(error, QueueFull):
            admission: Admission = request.app.state.runtime.admission
            await admission.hold(error)
        # If the body was not read completely, the rest of it is still in the connection.
        return ProblemResponse(error, request_id(request.scope), close=not body_was_read(request.scope))

    @app.exception_handler(RequestValidationError)
    async def _invalid(request: Request, error: RequestValidationError) -> Response:
        await require_document(request.app)
        errors = describe_items(error.errors(), partial(describe_violation, request))
        what = describe_violations(errors)
        problem = InvalidRequest(f"The request does not match its documented schema: {what}.", errors)
        return ProblemResponse(problem, request_id(request.scope), close=not body_was_read(request.scope))

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: HTTPException) -> Response:
        if error.status_code == 405:
            await require_document(request.app)
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
        # The text of the framework is not shown; it describes the implementation.
        return InvalidRequest(
            "The request cannot be read: its body does not have the form that its Content-Type states."
        )
    return InternalError()


def _allowed_methods(request: Request) -> str:
    """Return all methods of the endpoint; the router itself names only those of the first matching route.

    In the document, the path of an action such as `/v1/inspections/{inspection_id}:replay` matches that of its resource
    as well. The path with the most literal text is the endpoint's.
    """
    paths = request.app.openapi()["paths"]
    matching = [path for path in paths if compile_path(path)[0].match(request.url.path)]
    if not matching:
        return ""
    endpoint = max(matching, key=lambda path: len(_PARAMETER.sub("", path)))
    return ", ".join(sorted({method.upper() for method in paths[endpoint]} & HTTP_METHODS))


_PARAMETER = re.compile(r"\{[^}]*\}")
HTTP_METHODS = {"DELETE", "GET", "HEAD", "PATCH", "POST", "PUT"}
BODY_READ = "plumbline.body_read"


def body_was_read(scope: Scope) -> bool:
    """Return whether the request body was received completely, as recorded by `BodyLimitMiddleware`."""
    return bool(scope.get(BODY_READ, True))


def catalogue() -> dict[str, type[PlumblineError]]:
    """Return every error class of the service by its slug.

    The classes are declared in the `errors` modules of the packages, all of which are imported here, so the result does
    not depend on what the caller has imported.
    """
    for module in pkgutil.walk_packages(service.__path__, "service."):
        if module.name.endswith(".errors"):
            importlib.import_module(module.name)
    kinds: dict[str, type[PlumblineError]] = {PlumblineError.slug: InternalError}
    return kinds | {kind.slug: kind for kind in _subclasses(PlumblineError) if kind.__module__.startswith("service.")}


def describe(kind: type[PlumblineError]) -> str:
    """Return the explanation of a problem type for a reference page.

    Args:
        kind: An error class, as `catalogue` returns it.

    Returns:
        The docstring of the class up to its first section such as "Attributes:", or the title if the class has no
        docstring of its own. Paragraphs are separated by one blank line; text between backticks is code.
    """
    text = re.split(_SECTION, inspect.cleandoc(kind.__doc__ or ""), maxsplit=1)[0].strip()
    return text or f"{kind.title}."


def _subclasses(kind: type[PlumblineError]) -> Iterator[type[PlumblineError]]:
    for subclass in kind.__subclasses__():
        yield subclass
        yield from _subclasses(subclass)


def problem_responses(*kinds: type[PlumblineError]) -> dict[int | str, dict[str, Any]]:
    """Return the OpenAPI description of the failures a route can report; those of every route are always included."""
    by_status: dict[int | str, list[str]] = {}
    every: tuple[type[PlumblineError], ...] = (*kinds, *_EVERY_ROUTE)
    for kind in dict.fromkeys(every):
        by_status.setdefault(kind.status, []).append(f"`{kind.slug}`: {kind.title}.")
    return {
        status: {
            "description": " ".join(lines),
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
            **({"headers": _HEADERS[status]} if status in _HEADERS else {}),
        }
        for status, lines in sorted(by_status.items(), key=lambda item: int(item[0]))
    }


def open_inference_responses(*kinds: type[PlumblineError]) -> dict[int | str, dict[str, Any]]:
    """Return `problem_responses` in the form of the Open Inference Protocol."""
    schema = {"application/json": {"schema": {"$ref": "#/components/schemas/InferError"}}}
    return {status: {**response, "content": schema} for status, response in problem_responses(*kinds).items()}


def add_problems(path: str, responses: dict[str, Any], *kinds: type[PlumblineError]) -> None:
    """Add failures to the responses of an operation in the OpenAPI document, in the form of its path."""
    describe_kinds = open_inference_responses if is_open_inference(path) else problem_responses
    for kind in kinds:
        described = describe_kinds(kind)[kind.status]
        response = responses.setdefault(str(kind.status), described)
        if f"`{kind.slug}`" not in response["description"]:
            response["description"] += f" `{kind.slug}`: {kind.title}."


_EVERY_ROUTE = (
    HostNotAllowed,
    ForeignOrigin,
    MalformedRequest,
    RequestTimeout,
    BodyTooSlow,
    HeadersTooLarge,
    InternalError,
    TooManyConnections,
    MemoryBudgetExceeded,
    ShuttingDown,
)
RETRY_HEADERS = {
    "Retry-After": {
        "description": "Seconds to wait before the next attempt. Absent if waiting does not help.",
        "schema": {"type": "integer"},
    }
}
_HEADERS: dict[int | str, dict[str, Any]] = {
    401: {"WWW-Authenticate": {"description": "How to authenticate.", "schema": {"type": "string"}}},
    429: RETRY_HEADERS,
    503: RETRY_HEADERS,
}
