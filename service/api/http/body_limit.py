"""Limits of request bodies, declared on the routes and enforced before and while a body is read.

A route declares its limit with `limit_body`; every other request has the limit `IMAGE`.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeVar

from fastapi import APIRouter
from fastapi.routing import APIRoute
from starlette.datastructures import Headers
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.http.clients import client_of
from service.api.http.errors import BodyTooSlow, RequestTimeout, UploadTooSlow
from service.api.http.problems import BODY_READ, DISCARDING, REQUEST_ID, BodyLimitExceeded, ProblemResponse
from service.bundle.errors import BundleTooLarge
from service.errors import BodyTooLarge, MemoryBudgetExceeded, PlumblineError
from service.serving.memory_budget import MemoryBudget, Reservation
from service.settings import PREFIX, Settings

_ATTRIBUTE = "__body_limit__"
_RATE_GRACE_S = 5.0
EndpointT = TypeVar("EndpointT", bound=Callable[..., Any])


@dataclass(frozen=True)
class BodyLimit:
    """Maximum size and duration of a request body.

    Attributes:
        setting: Name of the setting that holds the limit in bytes.
        error: Makes the error from the limit in bytes.
        max_bytes: A fixed limit in bytes that holds as well; None if there is none.
        applies_to_json: Whether the limit holds for JSON documents, too; otherwise they have the limit `IMAGE`.
        timeout: Name of the setting that holds the maximum time for the body in seconds.
        pause: Name of the setting that holds the maximum time between two pieces of the body in seconds; None if the
            maximum time for the body is short enough.
        min_rate: Name of the setting that holds the lowest average rate in bytes per second.
        rate_grace_s: Seconds before the lowest rate applies; None for those of images.
        too_late: Makes the error from a maximum time and the name of its setting.
        too_slow: Makes the error from the lowest rate.
        is_kept: Whether the whole body is kept in memory, so that it needs a share of the memory budget.
    """

    setting: Literal["max_body_bytes", "max_call_bytes", "max_bundle_bytes"]
    error: Callable[[int], PlumblineError] = BodyTooLarge
    max_bytes: int | None = None
    applies_to_json: bool = True
    timeout: Literal["body_timeout_s", "call_timeout_s", "upload_timeout_s"] = "body_timeout_s"
    pause: Literal["body_timeout_s"] | None = None
    min_rate: Literal["min_body_rate", "min_upload_rate"] = "min_body_rate"
    rate_grace_s: float | None = None
    too_late: Callable[[float, str], PlumblineError] = RequestTimeout
    too_slow: Callable[[int], PlumblineError] = BodyTooSlow
    is_kept: bool = True

    def size(self, settings: Settings) -> int:
        """Return the limit in bytes."""
        configured: int = getattr(settings, self.setting)
        return configured if self.max_bytes is None else min(configured, self.max_bytes)


IMAGE = BodyLimit("max_body_bytes")
IMAGES = BodyLimit(
    "max_call_bytes",
    partial(BodyTooLarge, setting="PLUMBLINE_MAX_CALL_BYTES"),
    applies_to_json=False,
    timeout="call_timeout_s",
    pause="body_timeout_s",
    is_kept=False,
)
BUNDLE = BodyLimit(
    "max_bundle_bytes",
    BundleTooLarge,
    timeout="upload_timeout_s",
    pause="body_timeout_s",
    min_rate="min_upload_rate",
    rate_grace_s=30.0,
    too_late=UploadTooSlow.after,
    too_slow=UploadTooSlow.below,
    is_kept=False,
)
RECIPE = BodyLimit("max_body_bytes", max_bytes=2**20)
CREDENTIALS = BodyLimit("max_body_bytes", max_bytes=2**17)


def limit_body(limit: BodyLimit) -> Callable[[EndpointT], EndpointT]:
    """Declare the body limit of an endpoint. Use it below the decorator of the route."""

    def declare(endpoint: EndpointT) -> EndpointT:
        setattr(endpoint, _ATTRIBUTE, limit)
        return endpoint

    return declare


def has_body(headers: Headers) -> bool:
    """Return whether the headers of a request announce a body."""
    return headers.get("content-length", "") not in {"", "0"} or "transfer-encoding" in headers


class BodyLimitMiddleware:
    """Rejects a request body that is too large or too slow, or that does not fit into the memory budget.

    A stated length is checked before a byte is read; the real length is checked while the body is read. The middleware
    also records in the scope whether the body was read to its end.

    Args:
        app: The application.
        settings: The limits.
        routers: Routers whose routes declare limits.
        memory: Budget of the bodies that are kept in memory.
    """

    def __init__(self, app: ASGIApp, settings: Settings, routers: Iterable[APIRouter], memory: MemoryBudget) -> None:
        self._app = app
        self._settings = settings
        self._memory = memory
        routes = [route for router in routers for route in router.routes if isinstance(route, APIRoute)]
        self._limited = [route for route in routes if hasattr(route.endpoint, _ATTRIBUTE)]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        stated = headers.get("content-length", "")
        scope[BODY_READ] = not has_body(headers)
        if scope[BODY_READ]:
            await self._app(scope, receive, send)
            return
        limit = self._find_limit(scope)
        limit_bytes = limit.size(self._settings)
        stated_bytes = int(stated) if stated.isdecimal() else 0
        if stated_bytes > limit_bytes:
            await ProblemResponse(limit.error(limit_bytes), scope[REQUEST_ID], close=True)(scope, receive, send)
            return
        body = _Body(scope, receive, limit, self._settings, self._memory, stated_bytes)
        try:
            await self._app(scope, body.receive, send)
        finally:
            body.close()

    def _find_limit(self, scope: Scope) -> BodyLimit:
        for route in self._limited:
            if route.matches(scope)[0] is Match.FULL:
                limit: BodyLimit = getattr(route.endpoint, _ATTRIBUTE)
                return limit if limit.applies_to_json or not _is_json(scope) else IMAGE
        return IMAGE


class _Body:
    """The body of one request, from its first to its last byte."""

    def __init__(
        self, scope: Scope, receive: Receive, limit: BodyLimit, settings: Settings, memory: MemoryBudget, stated: int
    ) -> None:
        self._scope = scope
        self._receive = receive
        self._limit = limit
        self._limit_bytes = limit.size(settings)
        self._timeout_s = float(getattr(settings, limit.timeout))
        self._pause_s = math.inf if limit.pause is None else float(getattr(settings, limit.pause))
        self._min_rate = int(getattr(settings, limit.min_rate))
        self._memory = memory
        self._stated = stated
        self._received = 0
        self._waited_s = 0.0
        self._reservation: Reservation | None = None
        self._timer: asyncio.Timeout | None = None
        self._is_revoked = False
        self._has_failed = False

    async def receive(self) -> Message:
        """Return the next message of the client, within the limits.

        Raises:
            BodyLimitExceeded: A limit is exceeded. It is raised once: the response to it discards the rest of the body.
        """
        if self._has_failed or self._scope[BODY_READ] or DISCARDING in self._scope:
            return await self._receive()
        try:
            return await self._receive_limited()
        except PlumblineError as error:
            self._has_failed = True
            self.close()
            raise BodyLimitExceeded(error) from error

    def close(self) -> None:
        """Give the memory back."""
        if self._reservation is not None:
            self._reservation.set_revocable(None)
            self._reservation.release()

    async def _receive_limited(self) -> Message:
        if self._reservation is None:
            size = self._stated if self._limit.is_kept else 0
            self._reservation = self._memory.reserve(client_of(self._scope), size)
            self._reservation.set_revocable(self._revoke)
        loop = asyncio.get_running_loop()
        before = loop.time()
        try:
            async with asyncio.timeout_at(self._deadline(before)) as self._timer:
                message = await self._receive()
        except TimeoutError as error:
            raise self._timeout_error() from error
        finally:
            self._timer = None
        self._waited_s += loop.time() - before
        if self._is_revoked:
            raise MemoryBudgetExceeded(self._memory.limit_bytes)
        if message["type"] == "http.request":
            self._count(len(message.get("body", b"")))
            if not message.get("more_body", False):
                self._scope[BODY_READ] = True
                self._reservation.set_revocable(None)
        return message

    def _count(self, size: int) -> None:
        assert self._reservation is not None
        self._received += size
        self._reservation.received = self._received
        if self._received > self._limit_bytes:
            raise self._limit.error(self._limit_bytes)
        if self._limit.is_kept and self._received > self._reservation.size:
            self._reservation.grow(self._received - self._reservation.size)

    def _deadline(self, now: float) -> float:
        """Return until when the next bytes must arrive. Only time that the service waits for the client counts."""
        return now + min(self._pause_s, min(self._timeout_s, self._allowed_by_rate_s) - self._waited_s)

    @property
    def _allowed_by_rate_s(self) -> float:
        grace_s = _RATE_GRACE_S if self._limit.rate_grace_s is None else self._limit.rate_grace_s
        return grace_s + self._received / self._min_rate

    def _timeout_error(self) -> PlumblineError:
        if self._is_revoked:
            return MemoryBudgetExceeded(self._memory.limit_bytes)
        if self._pause_s <= min(self._timeout_s, self._allowed_by_rate_s) - self._waited_s:
            return RequestTimeout(self._pause_s, _variable(self._limit.pause), "next piece of the request body")
        if self._timeout_s <= self._allowed_by_rate_s:
            return self._limit.too_late(self._timeout_s, _variable(self._limit.timeout))
        return self._limit.too_slow(self._min_rate)

    def _revoke(self) -> None:
        self._is_revoked = True
        if self._timer is not None and not self._timer.expired():
            self._timer.reschedule(0)


def _variable(setting: str | None) -> str:
    return f"{PREFIX}{str(setting).upper()}"


def _is_json(scope: Scope) -> bool:
    return Headers(scope=scope).get("content-type", "").lower().startswith("application/json")
