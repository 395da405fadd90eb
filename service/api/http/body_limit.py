"""Limits of request bodies, declared on the routes and enforced before a body is read.

A route declares its limit with `limit_body`; every other request has the limit `IMAGE`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeVar

from fastapi import APIRouter
from fastapi.routing import APIRoute
from starlette.datastructures import Headers
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.http.problems import BODY_READ, REQUEST_ID, BodyLimitExceeded, ProblemResponse
from service.bundle.errors import BundleTooLarge
from service.errors import BodyTooLarge, PlumblineError
from service.settings import Settings

_ATTRIBUTE = "__body_limit__"
EndpointT = TypeVar("EndpointT", bound=Callable[..., Any])


@dataclass(frozen=True)
class BodyLimit:
    """Maximum size of a request body.

    Attributes:
        setting: Name of the setting that holds the limit in bytes.
        error: Makes the error from the limit in bytes.
        max_bytes: A fixed limit in bytes that holds as well; None if there is none.
        applies_to_json: Whether the limit holds for JSON documents, too; otherwise they have the limit `IMAGE`.
    """

    setting: Literal["max_body_bytes", "max_call_bytes", "max_bundle_bytes"]
    error: Callable[[int], PlumblineError] = BodyTooLarge
    max_bytes: int | None = None
    applies_to_json: bool = True

    def size(self, settings: Settings) -> int:
        """Return the limit in bytes."""
        configured: int = getattr(settings, self.setting)
        return configured if self.max_bytes is None else min(configured, self.max_bytes)


IMAGE = BodyLimit("max_body_bytes")
IMAGES = BodyLimit("max_call_bytes", partial(BodyTooLarge, setting="PLUMBLINE_MAX_CALL_BYTES"), applies_to_json=False)
BUNDLE = BodyLimit("max_bundle_bytes", BundleTooLarge)
RECIPE = BodyLimit("max_body_bytes", max_bytes=2**20)


def limit_body(limit: BodyLimit) -> Callable[[EndpointT], EndpointT]:
    """Declare the body limit of an endpoint. Use it below the decorator of the route."""

    def declare(endpoint: EndpointT) -> EndpointT:
        setattr(endpoint, _ATTRIBUTE, limit)
        return endpoint

    return declare


class BodyLimitMiddleware:
    """Rejects a request body that is too large.

    A stated length is checked before a byte is read; the real length is checked while the body is read. The middleware
    also records in the scope whether the body was read to its end.

    Args:
        app: The application.
        settings: The limits.
        routers: Routers whose routes declare limits.
    """

    def __init__(self, app: ASGIApp, settings: Settings, routers: Iterable[APIRouter]) -> None:
        self._app = app
        self._settings = settings
        routes = [route for router in routers for route in router.routes if isinstance(route, APIRoute)]
        self._limited = [route for route in routes if hasattr(route.endpoint, _ATTRIBUTE)]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limit = self._find_limit(scope)
        limit_bytes = limit.size(self._settings)
        headers = Headers(scope=scope)
        stated = headers.get("content-length", "")
        if stated.isdecimal() and int(stated) > limit_bytes:
            await ProblemResponse(limit.error(limit_bytes), scope[REQUEST_ID], close=True)(scope, receive, send)
            return
        has_body = stated not in {"", "0"} or "transfer-encoding" in headers
        scope[BODY_READ] = not has_body
        received = 0

        async def receive_counted() -> Message:
            nonlocal received
            message = await receive()
            if message["type"] == "http.request":
                size = len(message.get("body", b""))
                received += size
                # Raised once only: the response to it discards the rest of the body.
                if received > limit_bytes >= received - size:
                    raise BodyLimitExceeded(limit.error(limit_bytes))
                if not message.get("more_body", False):
                    scope[BODY_READ] = True
            return message

        await self._app(scope, receive_counted, send)

    def _find_limit(self, scope: Scope) -> BodyLimit:
        for route in self._limited:
            if route.matches(scope)[0] is Match.FULL:
                limit: BodyLimit = getattr(route.endpoint, _ATTRIBUTE)
                return limit if limit.applies_to_json or not _is_json(scope) else IMAGE
        return IMAGE


def _is_json(scope: Scope) -> bool:
    return Headers(scope=scope).get("content-type", "").lower().startswith("application/json")
