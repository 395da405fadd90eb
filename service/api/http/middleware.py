"""What happens to every request: an id, a bound on its body, a count, and an answer even when there is a bug.

Pure ASGI: the framework's convenience class would put a task and a queue between client and handler.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from functools import partial

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.http.errors import InternalError
from service.api.http.problems import BODY_READ, PROBLEM, REQUEST_ID, BodyLimitExceeded, ProblemResponse
from service.bundle.errors import BundleTooLarge
from service.errors import BodyTooLarge, PlumblineError
from service.monitoring.metrics import UNMATCHED_ROUTE, Metrics
from service.store.ids import new_id

log = structlog.get_logger(__name__)

TRACEPARENT = "plumbline.traceparent"
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:@/+=-]{1,128}")
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
_MANY_IMAGES = re.compile(r"/v1/products/[^/]+/(inspections:batch|thresholds:propose)")
_BUNDLES = re.compile(r"/v1/products/[^/]+/bundles")
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class RequestContext:
    """Names the request, counts it, and turns an unforeseen exception into a problem without a stack trace."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        headers = Headers(scope=scope)
        request_id = _named(headers.get("x-request-id", ""), _REQUEST_ID) or str(new_id())
        traceparent = _named(headers.get("traceparent", ""), _TRACEPARENT)
        scope[REQUEST_ID], scope[TRACEPARENT] = request_id, traceparent
        names = {"request_id": request_id} | ({"traceparent": traceparent} if traceparent else {})
        status = 0

        async def send_named(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                answer = MutableHeaders(scope=message)
                answer["X-Request-ID"] = request_id
                if traceparent:
                    answer["traceparent"] = traceparent
            await send(message)

        with structlog.contextvars.bound_contextvars(**names):
            try:
                await self.app(scope, receive, send_named)
            except Exception:  # the last line of defence: the client gets an answer, the log the story
                log.exception("unforeseen failure", method=scope["method"], path=scope["path"])
                if status == 0:
                    await ProblemResponse(InternalError(), request_id, close=True)(scope, receive, send_named)
            finally:
                self._count(scope, status, time.perf_counter() - started)

    def _count(self, scope: Scope, status: int, seconds: float) -> None:
        # The template, not the path: ids and scanners' fantasies would make a time series each.
        route = getattr(scope.get("route"), "path", UNMATCHED_ROUTE)
        method = scope["method"] if scope["method"] in _METHODS else "OTHER"
        self.metrics.http_requests.labels(method, route, str(status)).inc()
        self.metrics.http_duration.labels(method, route).observe(seconds)
        if PROBLEM in scope:
            self.metrics.problems.labels(scope[PROBLEM]).inc()


class BodyLimit:
    """Refuses a body that is too large as soon as that is known: from its stated length before a byte is
    read, from its real length with the byte that is one too many."""

    def __init__(self, app: ASGIApp, limit_bytes: int, bundle_bytes: int, call_bytes: int) -> None:
        self.app = app
        self.limit_bytes = limit_bytes
        self.bundle_bytes = bundle_bytes
        self.call_bytes = call_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        limit_bytes = self.limit_bytes
        too_large: Callable[[int], PlumblineError] = BodyTooLarge
        if _BUNDLES.fullmatch(scope["path"]):
            limit_bytes, too_large = self.bundle_bytes, BundleTooLarge
        elif _MANY_IMAGES.fullmatch(scope["path"]) and not _is_json(scope):
            limit_bytes, too_large = self.call_bytes, partial(BodyTooLarge, setting="PLUMBLINE_MAX_CALL_BYTES")
        headers = Headers(scope=scope)
        stated = headers.get("content-length", "")
        if stated.isdecimal() and int(stated) > limit_bytes:
            await ProblemResponse(too_large(limit_bytes), scope[REQUEST_ID], close=True)(scope, receive, send)
            return
        has_body = stated not in {"", "0"} or "transfer-encoding" in headers
        scope[BODY_READ] = not has_body
        received = 0

        async def receive_counted() -> Message:
            nonlocal received
            message = await receive()
            if message["type"] == "http.request":
                received += len(message.get("body", b""))
                # Once: after the refusal, the answer itself looks away while the rest comes in.
                if received > limit_bytes >= received - len(message.get("body", b"")):
                    raise BodyLimitExceeded(too_large(limit_bytes))
                if not message.get("more_body", False):
                    scope[BODY_READ] = True
            return message

        await self.app(scope, receive_counted, send)


def _is_json(scope: Scope) -> bool:
    return Headers(scope=scope).get("content-type", "").lower().startswith("application/json")


def _named(value: str, form: re.Pattern[str]) -> str | None:
    """A name that a client chose, if it has the form that may go into logs and headers."""
    return value if form.fullmatch(value) else None
