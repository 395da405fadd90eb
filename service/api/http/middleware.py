"""Context of every request: its id, its metrics, and a response for unexpected errors.

It is plain ASGI: Starlette's `BaseHTTPMiddleware` would add a task and a queue between client and endpoint.
"""

from __future__ import annotations

import re
import time

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.http.errors import InternalError, RouteNotFound
from service.api.http.problems import PROBLEM, PROBLEM_DETAIL, REQUEST_ID, ProblemResponse
from service.api.http.security_headers import SECURITY_HEADERS
from service.api.http.server_paths import SERVER_PATHS, ServerPaths
from service.monitoring.http_metrics import UNMATCHED_ROUTE
from service.monitoring.metrics import Metrics
from service.monitoring.refusals import SENDER, RefusalLog, sender_at
from service.store.ids import new_id

log = structlog.get_logger(__name__)

TRACEPARENT = "plumbline.traceparent"
ARRIVED = "plumbline.arrived"
"""When the request arrived, on the clock `time.perf_counter`."""
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:@/+=-]{1,128}")
# Version ff and ids of zeros are not valid.
_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
# A path is of any length; the log keeps its beginning.
_LOGGED_PATH = 200
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class RequestContext:
    """Gives each request an id, counts it, and turns an unexpected exception into a problem without a stack trace.

    Args:
        app: The application.
        metrics: Counts requests and problems.
        refusals: Logs requests that are refused.
        paths: Folders of the server that no response names.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, refusals: RefusalLog, paths: ServerPaths) -> None:
        self._app = app
        self._metrics = metrics
        self._refusals = refusals
        self._paths = paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        SERVER_PATHS.set(self._paths)
        client = scope.get("client")
        SENDER.set(sender_at(client[0] if client else None))
        if scope["type"] == "websocket":
            await self._open_stream(scope, receive, send)
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        headers = Headers(scope=scope)
        request_id = _matching(headers.get("x-request-id", ""), _REQUEST_ID) or str(new_id())
        traceparent = incoming_traceparent(headers)
        scope[REQUEST_ID], scope[TRACEPARENT], scope[ARRIVED] = request_id, traceparent, started
        context = {"request_id": request_id} | ({"traceparent": traceparent} if traceparent else {})
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                response_headers = MutableHeaders(scope=message)
                response_headers["X-Request-ID"] = request_id
                for name, value in SECURITY_HEADERS.items():
                    response_headers.setdefault(name, value)
                if traceparent:
                    response_headers["traceparent"] = traceparent
            await send(message)

        with structlog.contextvars.bound_contextvars(**context):
            try:
                await self._app(scope, receive, send_with_id)
            except Exception:  # details are logged, the client receives a problem with the request id
                log.exception("unexpected error", method=scope["method"], path=scope["path"])
                if status == 0:
                    await ProblemResponse(InternalError(), request_id, close=True)(scope, receive, send_with_id)
            finally:
                self._count(scope, status, time.perf_counter() - started)

    async def _open_stream(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Give a WebSocket an id. The response to its handshake has it, whether it is accepted or refused."""
        request_id = scope[REQUEST_ID] = str(new_id())
        is_answered = False

        async def send_with_id(message: Message) -> None:
            nonlocal is_answered
            kind = message["type"]
            if kind == "websocket.close" and not is_answered:
                # There is no such stream. The server would respond with 403 and an empty body.
                await ProblemResponse(RouteNotFound(scope["path"]), request_id)(scope, receive, send_with_id)
                return
            if kind in {"websocket.accept", "websocket.http.response.start"}:
                is_answered = True
                headers = MutableHeaders(raw=list(message.get("headers", ())))
                headers["X-Request-ID"] = request_id
                if kind != "websocket.accept":
                    for name, value in SECURITY_HEADERS.items():
                        headers.setdefault(name, value)
                message = {**message, "headers": headers.raw}
            await send(message)

        await self._app(scope, receive, send_with_id)

    def _count(self, scope: Scope, status: int, seconds: float) -> None:
        # The label is the route's template, not the path: each id and each scanned path would make a time series.
        route = getattr(scope.get("route"), "path", UNMATCHED_ROUTE)
        method = scope["method"] if scope["method"] in _METHODS else "OTHER"
        self._metrics.http.count_request(method, route, status, seconds)
        problem = scope.get(PROBLEM)
        # A 503 of /health/ready is a report, not a refusal: it has no problem.
        if problem is not None:
            self._metrics.http.problems.labels(problem).inc()
            self._refusals.record(
                problem,
                scope[REQUEST_ID],
                status=status,
                method=method,
                path=scope["path"][:_LOGGED_PATH],
                reason=scope.get(PROBLEM_DETAIL),
            )
        else:
            self._refusals.tick()


def incoming_traceparent(headers: Headers) -> str | None:
    """Return the W3C trace context of a request; None if there is none or if it is not valid."""
    return _matching(headers.get("traceparent", ""), _TRACEPARENT)


def _matching(value: str, pattern: re.Pattern[str]) -> str | None:
    """Return a value sent by the client if it is safe to use in logs and headers, otherwise None."""
    return value if pattern.fullmatch(value) else None
