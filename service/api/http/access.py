"""Access to routes: each endpoint declares the scope that it needs, and a request is checked before its body is read.

The check is a middleware, because the framework reads the body of some requests before it runs dependencies. A
dependency of every router (`require_checked`) verifies that the middleware checked the endpoint that runs.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from fastapi.routing import iter_route_contexts
from starlette._utils import get_route_path
from starlette.datastructures import Headers
from starlette.requests import HTTPConnection
from starlette.routing import BaseRoute, WebSocketRoute, compile_path
from starlette.types import ASGIApp, Receive, Send
from starlette.types import Scope as AsgiScope

from service.access.cache import Identity
from service.access.control import AccessControl
from service.access.errors import (
    ConflictingCredentials,
    CsrfFailed,
    InsufficientScope,
    NotAuthenticated,
    NotPermitted,
)
from service.access.principal import ANONYMOUS, LOCAL, Principal, Scope
from service.access.restrictions import require_product
from service.api.http.body_limit import has_body
from service.api.http.clients import PRINCIPAL
from service.api.http.origin import SAFE_METHODS
from service.api.http.problems import REQUEST_ID, ProblemResponse
from service.errors import PlumblineError
from service.host_names import is_loopback
from service.monitoring.metrics import Metrics
from service.monitoring.refusals import SENDER, RefusalLog
from service.settings import Settings
from service.store.ids import new_id

IDENTITY = "plumbline.identity"
"""Key of the verified credential in the ASGI scope of a request; None without one."""
SESSION_COOKIE, SECURE_SESSION_COOKIE = "plumbline", "__Host-plumbline"
CSRF_HEADER = "X-CSRF-Token"
BACKGROUND_HEADER = "X-Background"
"""Header of the requests by which pages refresh themselves."""
_CHECKED = "plumbline.checked_endpoint"
_RECHECK = "plumbline.recheck"
_ATTRIBUTE = "__access_rule__"
_BEARER = re.compile(r"bearer +(\S.*)", re.IGNORECASE)
EndpointT = TypeVar("EndpointT", bound=Callable[..., Any])
Need = Scope | Literal["any"] | None


@dataclass(frozen=True)
class AccessRule:
    """What an endpoint needs.

    Attributes:
        scope: The scope; `any` for every key and account; None if everyone may use the endpoint.
        filters: Whether the endpoint itself leaves out what a restricted principal may not use.
        unless: Name of a property of the settings that opens the endpoint to everyone; None if there is none.
    """

    scope: Need
    filters: bool = False
    unless: Literal["are_metrics_open"] | None = None


def requires(
    scope: Need, *, filters: bool = False, unless: Literal["are_metrics_open"] | None = None
) -> Callable[[EndpointT], EndpointT]:
    """Declare what an endpoint needs. Use it below the decorator of the route.

    Args:
        scope: The scope; `any` for every key and account; None for an endpoint that everyone may use.
        filters: A key may be restricted to products or stations. The product in the path and the inspection in the path
            are checked everywhere (`{product}`, `{inspection_id}`). An endpoint whose path has neither is refused to
            such a key, unless it declares that it leaves out what the principal may not use.
        unless: Property of the settings that opens the endpoint to everyone.
    """

    def declare(endpoint: EndpointT) -> EndpointT:
        setattr(endpoint, _ATTRIBUTE, AccessRule(scope, filters, unless))
        return endpoint

    return declare


def rule_of(endpoint: object) -> AccessRule | None:
    """Return what an endpoint needs; None if it declares nothing."""
    rule: AccessRule | None = getattr(endpoint, _ATTRIBUTE, None)
    return rule


def principal_of(connection: HTTPConnection) -> Principal:
    """Return the principal that sent a request or opened a stream."""
    principal: Principal = connection.scope[PRINCIPAL]
    return principal


def identity_of(connection: HTTPConnection) -> Identity | None:
    """Return the verified credential of a request; None without one."""
    identity: Identity | None = connection.scope[IDENTITY]
    return identity


async def find_sender(connection: HTTPConnection) -> None:
    """Find out who sent a request that was refused, or whose path has no endpoint, before that was known.

    Only the page of the failure needs it, for the navigation; nothing is permitted by it.

    Args:
        connection: The request. Principal and identity in its scope are set if its credential is valid, or if the
            service needs none.
    """
    scope = connection.scope
    scope.setdefault(PRINCIPAL, ANONYMOUS)
    scope.setdefault(IDENTITY, None)
    control: AccessControl | None = getattr(connection.app.state, "access", None)
    if scope[PRINCIPAL] is not ANONYMOUS or control is None:
        return
    try:
        identity = await _identify(control, scope)
    except PlumblineError:
        return
    scope[PRINCIPAL], scope[IDENTITY] = _principal(identity), identity


async def recheck(connection: HTTPConnection) -> None:
    """Check the credential of a long request again. It costs nothing if the last check was a moment ago.

    Raises:
        InvalidKey, NotAuthenticated: It was revoked or has expired.
    """
    await connection.scope[_RECHECK]()


def require_checked(connection: HTTPConnection) -> None:
    """Check that `AccessMiddleware` admitted the request to the endpoint that is about to run.

    Raises:
        RuntimeError: It did not. This is a defect of the service; the request must not run.
    """
    if connection.scope.get(_CHECKED) is not connection.scope["endpoint"]:
        raise RuntimeError(f"the access to {connection.scope['path']} was not checked")


@dataclass(frozen=True)
class Operation:
    """One endpoint of the application, as the router finds it.

    Attributes:
        path: Template of the path.
        methods: HTTP methods; None for a WebSocket.
        endpoint: The function.
        rule: What it needs.
    """

    path: str
    methods: frozenset[str] | None
    endpoint: object
    rule: AccessRule


def operations_of(routes: Sequence[BaseRoute]) -> Iterator[Operation]:
    """Yield every endpoint of an application, in the order in which the router tries them.

    Raises:
        RuntimeError: An endpoint declares no scope, or a route has no endpoint, such as a mount.
    """
    for context in iter_route_contexts(routes):
        path, endpoint = context.path, context.endpoint
        rule = rule_of(endpoint)
        if path is None or endpoint is None or rule is None:
            where = path or context.original_route
            raise RuntimeError(f"{where}: no scope is declared; add @requires(...) below the decorator of the route")
        methods = None if isinstance(context.original_route, WebSocketRoute) else frozenset(context.methods or ())
        if methods is not None and not methods:
            raise RuntimeError(f"{path}: the route declares no methods, so its access cannot be checked")
        yield Operation(path, methods, endpoint, rule)


class AccessMiddleware:
    """Finds out who sends a request, and refuses it before its body is read if the endpoint needs more.

    Paths without an endpoint are passed on: the router reports that they do not exist.

    Args:
        app: The application.
        routes: All routes of the application.
        settings: Whether `/metrics` is open.
        metrics: Counts refused streams.
        refusals: Logs refused streams.
    """

    def __init__(
        self, app: ASGIApp, routes: Sequence[BaseRoute], settings: Settings, metrics: Metrics, refusals: RefusalLog
    ) -> None:
        self._app = app
        self._settings = settings
        self._metrics = metrics
        self._refusals = refusals
        self._table = [(*compile_path(operation.path)[::2], operation) for operation in operations_of(routes)]

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        """Handle a request or the handshake of a stream."""
        if scope["type"] in {"http", "websocket"}:
            scope[PRINCIPAL], scope[IDENTITY] = ANONYMOUS, None
            try:
                await self._check(scope)
            except PlumblineError as error:
                await self._refuse(error, scope, receive, send)
                return
        await self._app(scope, receive, send)

    async def _check(self, scope: AsgiScope) -> None:
        operation, parameters = self._find(scope)
        if operation is None:
            return
        rule = operation.rule
        if rule.scope is not None and not (rule.unless and self._is_open(rule.unless, scope)):
            control: AccessControl = scope["app"].state.access

            async def admit() -> Identity | None:
                identity = await _identify(control, scope)
                _record_sender(_principal(identity))
                # Also of a request that is refused: its page has the navigation and the log-out of the person.
                scope[PRINCIPAL], scope[IDENTITY] = _principal(identity), identity
                _authorise(rule, _principal(identity), parameters)
                return identity

            await admit()
            scope[_RECHECK] = admit
        scope[_CHECKED] = operation.endpoint

    def _is_open(self, unless: Literal["are_metrics_open"], scope: AsgiScope) -> bool:
        # A reverse proxy on this machine would otherwise open the metrics of a service on the loopback interface.
        is_chosen = bool(self._settings.metrics_open)
        return bool(getattr(self._settings, unless)) and (is_chosen or is_local(scope))

    def _find(self, scope: AsgiScope) -> tuple[Operation | None, dict[str, Any]]:
        """Return the endpoint that the router will choose, and the parameters in its path."""
        path, method = get_route_path(scope), scope.get("method")
        for pattern, convertors, operation in self._table:
            is_method = method is None if operation.methods is None else method in operation.methods
            if is_method and (found := pattern.match(path)):
                return operation, {name: convertors[name].convert(text) for name, text in found.groupdict().items()}
        return None, {}

    async def _refuse(self, error: PlumblineError, scope: AsgiScope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            # The body was not read, so the connection cannot be used for another request.
            await ProblemResponse(error, scope[REQUEST_ID], close=has_body(Headers(scope=scope)))(scope, receive, send)
            return
        name = str(new_id())
        self._metrics.count_refusal(error)
        self._refusals.record(error.slug, name, status=error.status, path=scope["path"], reason=error.detail)
        await ProblemResponse(error, name)(scope, receive, send)


def is_local(scope: AsgiScope) -> bool:
    """Return whether a request comes from this machine: directly, or by what a trusted proxy reports."""
    client = scope.get("client")  # None for a Unix socket
    return client is None or is_loopback(client[0])


def is_secure(scope: AsgiScope) -> bool:
    """Return whether the client uses TLS; the server takes the scheme that a trusted proxy reports."""
    return bool(scope["scheme"] == "https")


def session_cookie(scope: AsgiScope) -> str:
    """Return the name of the session cookie. Browsers accept `__Host-` with TLS only, and from no other host."""
    return SECURE_SESSION_COOKIE if is_secure(scope) else SESSION_COOKIE


async def _identify(control: AccessControl, scope: AsgiScope) -> Identity | None:
    """Return the verified credential of a request; None if the service needs none.

    Raises:
        PlumblineError: There is no valid credential.
    """
    if not control.is_required:
        control.require_local(is_local=is_local(scope))
        return None
    headers = Headers(scope=scope)
    key = _key_of(headers)
    if key is not None:
        return await control.identify_key(key)
    # A stream is not authenticated by a cookie: another site could open it, and a handshake has no CSRF token.
    token = _cookie(headers, session_cookie(scope)) if scope["type"] == "http" else None
    if token is None:
        raise NotAuthenticated
    identity = await control.identify_session(token, is_background=is_background(headers))
    if scope["method"] not in SAFE_METHODS:
        assert identity.csrf_token is not None
        if not hmac.compare_digest(headers.get(CSRF_HEADER, "").encode(), identity.csrf_token.encode()):
            raise CsrfFailed
    return identity


def is_background(headers: Headers) -> bool:
    """Return whether a page sent a request on its own, so that it does not count as activity of the person.

    Pages mark what they refresh, and browsers mark what is loaded as an image. A page that is left open would otherwise
    keep its session from ending.

    Args:
        headers: Headers of the request.
    """
    return BACKGROUND_HEADER in headers or headers.get("sec-fetch-dest") == "image"


def _record_sender(principal: Principal) -> None:
    sender = SENDER.get()
    if sender is not None:
        has_id = principal.kind in {"key", "account"}
        sender.principal = f"{principal.kind} {principal.id}" if has_id else principal.kind


def _principal(identity: Identity | None) -> Principal:
    return LOCAL if identity is None else identity.principal


def _authorise(rule: AccessRule, principal: Principal, parameters: dict[str, Any]) -> None:
    if rule.scope is None or rule.scope == "any":
        return
    if rule.scope not in principal.scopes:
        raise InsufficientScope(rule.scope, principal.scopes, principal.name)
    if not principal.is_restricted:
        return
    if "product" in parameters:
        require_product(principal, parameters["product"])
    elif "inspection_id" not in parameters and not rule.filters:
        raise NotPermitted.everything()


def _key_of(headers: Headers) -> str | None:
    """Return the API key of a request, or None.

    Raises:
        ConflictingCredentials: There are two different ones.
    """
    bearers = (_BEARER.fullmatch(value.strip()) for value in headers.getlist("authorization"))
    found = {bearer[1] for bearer in bearers if bearer is not None}
    found |= {value.strip() for value in headers.getlist("x-api-key")}
    if len(found) > 1:
        raise ConflictingCredentials
    return next(iter(found), None)


def _cookie(headers: Headers, name: str) -> str | None:
    # The parser of the standard library is slow for long headers, which anyone can send, and unquotes values, which the
    # tokens of sessions do not need.
    for header in headers.getlist("cookie"):
        for pair in header.split(";"):
            found, separator, value = pair.partition("=")
            if separator and found.strip() == name:
                return value.strip()
    return None
